"""The way in which a model was trained, its order and its label."""

import random

import pytest
from harness.report_records import card

from parl_tf.results.records import ModelCard
from parl_tf.results.settings import Setting

IN_ORDER = {
    "ENS_U": Setting(method="unprotected"),
    "ADP": Setting(method="adp"),
    "GAL": Setting(method="gal"),
    "DVERGE": Setting(method="dverge"),
    "PARL/7": Setting(method="parl", num_layers=7),
    "TRS": Setting(method="trs"),
    "Guardian/5": Setting(method="guardian", num_layers=5),
    "Guardian/10": Setting(method="guardian", num_layers=10),
    "PARL/10": Setting(method="parl", num_layers=10),
    "PARL/3": Setting(method="parl", num_layers=3),
    "PARL/7 (mine)": Setting(name="PARL/7 (mine)"),
    "disagreement": Setting(method="disagreement"),
    "ENS_U + AT": Setting(method="unprotected", adversarially_trained=True),
    "PARL/7 + AT": Setting(method="parl", num_layers=7, adversarially_trained=True),
    "PARL/3 + AT": Setting(method="parl", num_layers=3, adversarially_trained=True),
}


@pytest.mark.parametrize("seed", range(5))
def test_settings_are_sorted_as_in_the_tables_and_labelled(seed):
    settings = list(IN_ORDER.values())
    random.Random(seed).shuffle(settings)
    assert [setting.label for setting in sorted(settings)] == list(IN_ORDER)


@pytest.mark.parametrize(
    ("trained", "label", "layers"),
    [
        ("unprotected", "ENS_U", None),
        ("parl5", "PARL/5", 5),
        ("guardian7", "Guardian/7", None),
        ("parl7-at", "PARL/7 + AT", None),
    ],
)
def test_a_setting_follows_from_the_configuration_whatever_the_seed(trained, label, layers):
    setting = Setting.of(card(trained, 0))
    assert setting == Setting.of(card(trained, 1))
    assert (setting.label, setting.parl_layers) == (label, layers)


@pytest.mark.parametrize("name", ["PARL/7", "PARL/7 + AT", "ENS_U"])
def test_a_name_is_never_taken_for_a_label(name):
    bare = Setting.of(ModelCard(name=name, fingerprint="f"))
    assert bare.label == name
    assert bare.parl_layers is None
    assert bare not in IN_ORDER.values()
    assert sorted([bare, IN_ORDER[name]]) == sorted([IN_ORDER[name], bare])


def test_names_that_look_alike_are_one_setting_of_one_line():
    settings = {
        Setting.of(ModelCard(name=name, fingerprint="f"))
        for name in ("mine  and\nyours", "mine and yours", " mine and\x00yours ")
    }
    assert [setting.label for setting in settings] == ["mine and yours"]
    assert len(Setting.of(ModelCard(name="x" * 100, fingerprint="f")).label) == 60
