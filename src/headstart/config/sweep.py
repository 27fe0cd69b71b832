"""conf/sweep: what the trials of a sweep are compared by, which keys it varies, and how many trials are averaged."""

from dataclasses import dataclass

from headstart.config.constraints import constrained, is_int, one_of
from headstart.metrics import full_names

OBJECTIVES = full_names("valid")
ENSEMBLE = "0, for none, or an integer of 2 or more"


def is_ensemble_size(value: object) -> bool:
    """Whether `value` is one of those that ENSEMBLE describes."""
    return value == 0 or is_int(value, least=2)


@dataclass
class SweepSettings:
    """`over` are the keys given several values on the command line, `fixed` those given one."""

    over: list[str]
    fixed: list[str]
    objective: str = one_of(*OBJECTIVES)
    ensemble: int = constrained(ENSEMBLE, is_ensemble_size, default=0)
