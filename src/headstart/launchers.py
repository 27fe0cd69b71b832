"""Where this process stands in a job of several, by the variables that torchrun, SLURM or headstart itself set."""

import os
from dataclasses import dataclass

# Set by torchrun and by headstart.training.jobs.
VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """The numbers of a process, from 0, in the whole job and on its machine, and how many processes there are."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    launcher: str = ""

    @property
    def nodes(self) -> int:
        """The number of machines."""
        return self.world_size // self.local_world_size


def place_in_job() -> Place:
    """Of this process; that of a single one, if nothing started several."""
    world = _number("WORLD_SIZE", 1)
    local = _number("LOCAL_WORLD_SIZE", world)
    if world > 1 and "RANK" in os.environ:
        return Place(_number("RANK", 0), world, _number("LOCAL_RANK", 0), local, "torchrun")
    # Of the step that srun started: those of the batch script, which is one process, count what it may start.
    # A shell of `srun --pty bash` has them too, and one process of it, which nobody joins.
    if _number("SLURM_STEP_NUM_TASKS", 1) > 1 and "SLURM_PTY_PORT" not in os.environ:
        world = _number("SLURM_STEP_NUM_TASKS", 1)
        local = world // _number("SLURM_STEP_NUM_NODES", 1)
        return Place(_number("SLURM_PROCID", 0), world, _number("SLURM_LOCALID", 0), local, "srun")
    return Place()


def _number(name: str, default: int) -> int:
    return int(os.environ.get(name) or default)
