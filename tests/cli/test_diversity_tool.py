"""parl-diversity, as a user runs it."""

import json

import numpy as np
import pytest

from parl_tf.cli import diversity
from parl_tf.results.diversity import load_diversity


@pytest.mark.slow
def test_diversity_of_a_run(runs, tmp_path, capsys):
    folder, _ = runs
    out = tmp_path / "new" / "diversity.json"
    given = ["--target", folder / "unprotected", "--out", out, "--num-examples", "10"]
    few = ["--num-steps", "1", "--batch-size", "10", "--epsilon", "0.05", "--json"]
    assert diversity.main(list(map(str, [*given, *few]))) == 0
    printed = capsys.readouterr()
    record = load_diversity(out)
    assert json.loads(printed.out) == record.to_json()
    assert "Diversity of unprotected on 10 test images" in printed.err
    assert "1 and 2" in printed.err
    assert record.target.config.method == "unprotected"
    assert np.shape(record.cka) == (7, 1)
    assert record.data["name"] == "digits"
    assert (record.attack["name"], record.attack["epsilon"]) == ("pgd", 0.05)
    assert diversity.main(list(map(str, given))) == 2
    assert "already exists" in capsys.readouterr().err
    assert load_diversity(out) == record


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "bare Keras file"),
        (["--dataset", "digits"], 2, "Expected an Ensemble"),
        (["--target", "nowhere"], 3, "No run folder or Keras file"),
        (["--dataset", "digit"], 2, "Did you mean digits"),
        (["--dataset", "digits", "--out", __file__], 2, "already exists"),
        (["--dataset", "digits", "--out", f"{__file__}/new.json"], 2, "cannot be written"),
    ],
)
def test_diversity_ends_in_a_message(capsys, tmp_path, network, arguments, status, message):
    out = tmp_path / "diversity.json"
    given = ["--target", network, "--out", str(out), *arguments]
    assert diversity.main(given) == status
    printed = capsys.readouterr()
    assert message in printed.err
    assert "Traceback" not in printed.err
    assert not out.exists()
