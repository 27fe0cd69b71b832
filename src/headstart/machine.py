"""The machine: its CPU, its cores, this process's place in a job, startup time, and errors that are its fault."""

import errno
import functools
import io
import os
import platform
import re
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.errors import HeadstartError

if TYPE_CHECKING:
    import torch

# How long a program took from its start to its work; most of it goes into imports.

# Imported before everything that takes long.
_IMPORTED = time.perf_counter()
_programs: list[float] = []


def program_starts() -> None:
    """Marks the start of a program that does one thing, as those of the command line."""
    _programs.append(time.perf_counter() if _programs else _IMPORTED)


def startup_seconds() -> float | None:
    """Returns the seconds since the program's start; None in Python, where other things may have happened before."""
    return time.perf_counter() - _programs[-1] if _programs else None


# Where this process stands in a job of several, by the variables that torchrun, SLURM or headstart itself set.

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
    """Returns the place of this process; that of a single one, if nothing started several."""
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


# The machine: its CPU, its cores, and errors that are its fault: a full disk, too little memory, a killed process.

# What PyTorch says about a worker process that was killed, or that does not answer.
DEAD_WORKER = re.compile(r"DataLoader worker \(pid|DataLoader timed out")
NO_SHARED_MEMORY = re.compile(r"allocate shared memory|Bus error")
# What the others say when a process of a job is gone.
PEER_GONE = re.compile(r"(onnection|ocket) (was )?(closed|reset) by|gloo/transport|NCCL|recvValue failed|Broken pipe")
# The disk, a quota or a limit is used up; they occur on open files, of which Python does not give the name.
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_MEMORY = ("MemoryError", "OutOfMemoryError")


@functools.cache
def cpu_name() -> str:
    """Returns the CPU's model, if the operating system names it."""
    return _cpu_info("model name") or platform.processor() or platform.machine()


@functools.cache
def cpu_instructions() -> str:
    """Returns the CPU's instructions, as the operating system names them; a virtual machine may hide some."""
    return _cpu_info("flags") or _cpu_info("Features") or platform.machine()


def _cpu_info(name: str) -> str | None:
    """Returns a line of the first core's, which Linux and nothing else has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), None)


def core_count() -> int:
    """Returns how many cores this process may use: in a container fewer than the machine has; in a job its share."""
    place = place_in_job()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # SLURM binds each process to its own.
    return cores if place.launcher == "srun" else max(1, cores // place.local_world_size)


def check_accelerator(name: str) -> None:
    """Raises HeadstartError, with what to do, if it is a GPU and there is none."""
    available = _available_gpus()
    if not (any(available.values()) if name == "gpu" else available.get(name, True)):
        raise HeadstartError(
            f"trainer.accelerator={name} needs a GPU, and PyTorch finds none: set trainer=cpu, or "
            "trainer.accelerator=auto to use what there is"
        )


def training_device(trainer: Mapping[str, Any]) -> "torch.device":
    """Returns the device of a Trainer with the arguments `trainer`: the first one, if they name several.

    Raises:
        HeadstartError: they ask for a GPU, and there is none, or for something else that PyTorch does not know.
    """
    # It takes seconds to import.
    import torch

    name, devices = str(trainer.get("accelerator", "auto")), trainer.get("devices", 1)
    check_accelerator(name)
    if name in ("auto", "gpu"):
        name = next((gpu for gpu, is_available in _available_gpus().items() if is_available), "cpu")
    if name not in ("cpu", "cuda", "mps"):
        raise HeadstartError(f"trainer.accelerator={name} is invalid: it must be one of auto, cpu, gpu, cuda, mps")
    if name != "cuda":
        return torch.device(name)
    # Lightning takes a number of devices, or which: [1] and "1,".
    which = devices.split(",") if isinstance(devices, str) and "," in devices else devices
    return torch.device(name, int(which[0]) if isinstance(which, list) else 0)


def _available_gpus() -> dict[str, bool]:
    import torch

    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}


def fault_of_machine(error: BaseException) -> str | None:
    """Returns what is wrong, in one sentence, if it is the machine's fault; None: it is not."""
    first = next(iter(str(error).splitlines()), "")
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return f"{error.filename or _open_file(error) or 'the output'} could not be written: {error.strerror}"
    if type(error).__name__ in NO_MEMORY or (isinstance(error, RuntimeError) and "can't allocate memory" in first):
        return f"out of memory, try a smaller data.batch_size: {first}".removesuffix(": ")
    if isinstance(error, RuntimeError) and NO_SHARED_MEMORY.search(str(error)):
        return "the processes that read images found too little shared memory (/dev/shm): try data.num_workers=0"
    if isinstance(error, RuntimeError) and DEAD_WORKER.search(str(error)):
        return f"a process that reads images was killed, or did not answer: try data.num_workers=0 ({first})"
    if isinstance(error, RuntimeError) and PEER_GONE.search(str(error)):
        return "another process of this job has ended, or cannot be reached; its own message says why"
    return None


def _open_file(error: OSError) -> str | None:
    """Returns the innermost file that was open where the error was raised; Python does not say which it was."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = (value for frame in reversed(frames) for value in frame.f_locals.values() if isinstance(value, io.IOBase))
    names = (getattr(file, "name", None) for file in files)
    texts = (os.fsdecode(name) for name in names if isinstance(name, str | bytes))
    # Those of stdout and stderr are "<stdout>" and "<stderr>".
    return next((text for text in texts if not text.startswith("<")), None)
