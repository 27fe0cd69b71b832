"""conf/sweep: what the trials of a sweep are compared by, and which keys it varies."""

from dataclasses import dataclass

from headstart.config.constraints import one_of
from headstart.metrics import full_names

OBJECTIVES = full_names("valid")


@dataclass
class SweepSettings:
    """`over` are the keys given several values on the command line, `fixed` those given one."""

    over: list[str]
    fixed: list[str]
    objective: str = one_of(*OBJECTIVES)
