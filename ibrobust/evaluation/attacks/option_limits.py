"""The values of an attack's options with which it can attack.

A step size of 0, a negative one or NaN changes no image, and the model would look robust.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ibrobust.errors import IbrobustError


@dataclass(frozen=True)
class Limit:
    """The finite numbers from low to high, both included.

    Attributes:
        low: smallest.
        high: largest.
        but: a number between them that is not allowed.
        whole: whether only whole numbers have a meaning.
    """

    low: float = -math.inf
    high: float = math.inf
    but: float | None = None
    whole: bool = False

    def allows(self, value: float) -> bool:
        """Return whether the value is one of them."""
        return math.isfinite(value) and self.low <= value <= self.high and value != self.but

    def __str__(self) -> str:
        number = "whole number" if self.whole else "finite number"
        if self.low == self.but == 0:
            return f"{number} above 0" + (f" and at most {self.high:g}" if self.high < math.inf else "")
        if self.high < math.inf:
            return f"{number} from {self.low:g} to {self.high:g}" + (f", not {self.but:g}" if self.but == 0 else "")
        return number + (f" of at least {self.low:g}" if self.low > -math.inf else "")


_POSITIVE, _NOT_NEGATIVE = Limit(0, but=0), Limit(0)
_SHARE, _POSITIVE_SHARE = Limit(0, 1), Limit(0, 1, but=0)
_COUNT = Limit(1, whole=True)

# By the option's name, if it means the same in all attacks that have it.
LIMITS: dict[str, Limit] = {
    # Sizes of steps and weights of losses.
    **dict.fromkeys(("alpha", "lr", "delta", "c", "initial_const", "scale", "amplification"), _POSITIVE),
    **dict.fromkeys(("nsig", "resize_rate"), _POSITIVE),
    # 0 is the attack without momentum, confidence, overshoot, noise or penalty.
    **dict.fromkeys(("decay", "momentum", "kappa", "overshoot", "std", "noise_sd", "beta"), _NOT_NEGATIVE),
    "project_factor": _NOT_NEGATIVE,
    **dict.fromkeys(("steps", "n_iter", "nb_iter", "num_iter_set", "max_iterations", "binary_search_steps"), _COUNT),
    **dict.fromkeys(("restarts", "n_restarts", "n_queries", "eot_iter", "nb_sample", "N", "m"), _COUNT),
    **dict.fromkeys(("inf_batch", "max_batch_size", "noise_batch_size", "batch_max"), _COUNT),
    **dict.fromkeys(("pixels", "popsize", "len_kernel"), _COUNT),
    **dict.fromkeys(("diversity_prob", "prob", "rho", "alpha_max"), _SHARE),
    **dict.fromkeys(("p_init", "gamma"), _POSITIVE_SHARE),
    # Factors by which a step goes beyond the boundary.
    **dict.fromkeys(("eta", "lam"), Limit(1)),
    # The change of a pixel, up or down.
    "theta": Limit(-1, 1, but=0),
    # Keeps a division by the gradient's norm finite; a large one would make the step vanish.
    "eps_for_division": Limit(0, 1e-6, but=0),
}
_LIMITS_OF_ONE: dict[tuple[str, str], Limit] = {
    ("GN", "std"): _POSITIVE,  # its only effect
    ("FAB", "beta"): _POSITIVE_SHARE,  # of the way back to the image
}


def check_option(attack: str, key: str, value: float) -> None:
    """Raise IbrobustError unless the attack can work with this value of a numerical option."""
    limit = option_limit(attack, key)
    if not limit.allows(value):
        raise IbrobustError(f"{attack}'s option {key} is {value}: a {limit} is needed.")


def option_limit(attack: str, key: str) -> Limit:
    """Return the valid values of a numerical option of the attack."""
    return _LIMITS_OF_ONE.get((attack, key)) or LIMITS.get(key, Limit())


def check_together(attack: str, options: Mapping[str, object]) -> None:
    """Raise IbrobustError if options of torchattacks' classes exclude each other.

    Args:
        attack: its name.
        options: all of them, including those at their defaults.
    """
    if attack == "FAB" and options["norm"] == "L1":
        raise IbrobustError("torchattacks' FAB has no L1 result: give norm=Linf or norm=L2.")
    if attack in ("EADL1", "EADEN") and options["abort_early"] and _number(options["max_iterations"]) < 10:
        raise IbrobustError(
            f"{attack} with max_iterations={options['max_iterations']} cannot abort early, which it checks ten times: "
            "give at least 10 or abort_early=false."
        )
    if attack in ("PGDRS", "PGDRSL2") and _number(options["batch_max"]) < _number(options["noise_batch_size"]):
        raise IbrobustError(
            f"{attack}'s batch_max={options['batch_max']} is smaller than noise_batch_size="
            f"{options['noise_batch_size']}, the number of copies of one image: give at least that."
        )


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return value
