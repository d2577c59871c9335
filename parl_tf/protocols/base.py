"""Evaluation protocols."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from parl_tf.arguments import check_choice, listed
from parl_tf.attacks import ATTACKS
from parl_tf.attacks.base import Attack
from parl_tf.errors import InputError
from parl_tf.evaluation.arguments import strengths
from parl_tf.evaluation.cases import Case
from parl_tf.protocols import EPSILONS
from parl_tf.training.config import RunConfig

Setting = tuple[str, dict[str, Any]]
"""Name of an attack, and its hyperparameters that differ from its defaults."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """A named set of attacks, strengths and requirements on surrogates.

    Attributes:
        name: Its name on the command line and in records.
        description: What it runs and how to read its records.
        black_box: Attacks crafted on each surrogate and evaluated on every target.
        white_box: Attacks crafted on each target itself.
        epsilons: Radii of the ball, in pixel units of [0, 1].
        further_white_box: More white-box attacks, each at its own strength.
        num_surrogates: Minimum and maximum number of surrogates; None for no maximum.
        unlike: Whether surrogates must be unprotected and differ in seed, network and length of
            training.
    """

    name: str
    description: str
    black_box: tuple[Setting, ...] = ()
    white_box: tuple[Setting, ...] = ()
    epsilons: tuple[float, ...] = EPSILONS
    further_white_box: tuple[tuple[Setting, float], ...] = ()
    num_surrogates: tuple[int, int | None] = (0, 0)
    unlike: bool = False

    def cases(
        self,
        *,
        epsilons: Sequence[float] | float | None = None,
        attacks: Sequence[str] | str | None = None,
        **hyperparameters: Any,
    ) -> list[Case]:
        """The cases to run.

        Args:
            epsilons: Strengths to run instead of the protocol's, several or one.
            attacks: Names of the protocol's attacks to run, several or one; None for all.
            **hyperparameters: Values to use instead of the protocol's, for every attack that has
                them. If any of these three is given, the evaluation is not the whole protocol,
                and its records are not comparable with others.

        Returns:
            Cases for `evaluate_cases`.

        Raises:
            InputError: An attack rejects a hyperparameter or a strength, or is not in the
                protocol.
            MissingExtraError: The extra that an attack needs is not installed.

        Example:
            >>> cases = parl_tf.PROTOCOLS["paper"].cases(epsilons=0.03, attacks=["fgsm", "bim"])
            >>> for case in cases:
            ...     print(case.threat_model, case.attack.name, case.epsilon)
            black_box fgsm 0.03
            black_box bim 0.03
        """
        chosen = self.epsilons if epsilons is None else sorted(set(strengths(epsilons)))
        attacks = None if attacks is None else listed(attacks)
        settings = [("black_box", setting, e) for setting in self.black_box for e in chosen]
        settings += [("white_box", setting, e) for setting in self.white_box for e in chosen]
        settings += [("white_box", setting, e) for setting, e in self.further_white_box]
        names = list(dict.fromkeys(name for _, (name, _), _ in settings))
        for name in attacks or ():
            check_choice(f"attack of protocol {self.name}", name, names)
        cases = [
            Case(threat_model, make_attack(*setting, **hyperparameters), float(epsilon))
            for threat_model, setting, epsilon in settings
            if attacks is None or setting[0] in attacks
        ]
        for case in cases:
            case.attack.check_epsilon(case.epsilon)
        return list(dict.fromkeys(cases))

    def check_surrogates(self, configs: Mapping[str, RunConfig | None]) -> None:
        """Raises unless the surrogates meet the protocol's requirements.

        Args:
            configs: Configurations of the runs that trained them, by name.

        Raises:
            InputError: There are too few or too many, or they are not as different as required.
        """
        fewest, most = self.num_surrogates
        if len(configs) < fewest or (most is not None and len(configs) > most):
            wanted = f"{fewest}" if fewest == most else f"at least {fewest}"
            noun = "surrogate" if fewest == 1 else "surrogates"
            raise InputError(
                f"Expected {wanted} {noun} for protocol {self.name}. Received: {len(configs)}."
            )
        if not self.unlike:
            return
        bare = [name for name, config in configs.items() if config is None]
        if bare:
            raise InputError(
                f"Expected run folders as surrogates for protocol {self.name}, as they record how "
                f"a model was trained. Received: {', '.join(bare)}."
            )
        known = {name: config for name, config in configs.items() if config is not None}
        protected = [name for name, config in known.items() if not _is_unprotected(config)]
        if protected:
            raise InputError(
                f"Expected unprotected surrogates for protocol {self.name}. "
                f"Received: {', '.join(protected)}."
            )
        for what, values in _differences(known).items():
            distinct = len(set(values.values()))
            if distinct < (len(known) if what == "seed" else 2):
                raise InputError(
                    f"Expected surrogates that differ in seed, network and length of training for "
                    f"protocol {self.name}. Received: {what} {values}."
                )


def _is_unprotected(config: RunConfig) -> bool:
    """Whether a run was trained without a defence and without adversarial training."""
    return config.method == "unprotected" and not config.is_adversarially_trained


def _differences(configs: Mapping[str, RunConfig]) -> dict[str, dict[str, Any]]:
    """The properties in which surrogates must differ, each by surrogate name."""
    return {
        "seed": {name: config.seed for name, config in configs.items()},
        "network": {name: config.recipe.network for name, config in configs.items()},
        "examples seen": {
            name: config.recipe.epochs * config.dataset.train_examples
            for name, config in configs.items()
        },
    }


def make_attack(name: str, settings: Mapping[str, Any], **hyperparameters: Any) -> Attack:
    """Makes an attack by its name.

    Args:
        name: As in `ATTACKS`.
        settings: Hyperparameters that differ from the attack's defaults.
        **hyperparameters: Values that take precedence; ignored if None or if the attack has no
            such hyperparameter.
    """
    attack = ATTACKS[name]
    has = {field.name for field in dataclasses.fields(attack) if field.init}
    given = {k: v for k, v in hyperparameters.items() if k in has and v is not None}
    return attack(**{**settings, **given})
