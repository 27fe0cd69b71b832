"""Starts the processes of a training, or joins those that torchrun or SLURM started, and ends with them.

torch.distributed.run does not start them: after the error sentence of a process that fails, it writes its own log, a
traceback and a table, and it runs the first process as a new one too. Here this process stays one of them, so that the
terminal, Ctrl-C, the messages and the exit status of a run are the same with one process and with several.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch.distributed
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from headstart.errors import HeadstartError
from headstart.log import abandon_output
from headstart.machine import PEER_GONE, VARIABLES, Place, place_in_job

# A process that is gone is noticed at once; this is for one that takes long, because it downloads the data.
LONGEST_WAIT = timedelta(hours=6)
# Names the process that started this one, which it must not outlive.
PARENT = "HEADSTART_PARENT"
POLL = 0.5  # seconds
LONGEST_START = 1800  # seconds, within which all processes must have been started
SILENT = 5  # seconds before it is said who is waited for
ALONE = "to train with one process, unset WORLD_SIZE and RANK, or set trainer=default"
# How long the first process may take to end by itself after another one is gone, and the others after it has ended.
GRACE = 10


@contextmanager
def several_processes(count: int, arguments: Sequence[str]) -> Iterator[None]:
    """Runs the block in `count` processes that can reach each other: here, and by `headstart train` with `arguments`.

    Processes that torchrun or SLURM started are joined.

    Raises:
        HeadstartError: another process has ended with an error.
    """
    if count == 1:
        yield
    elif place_in_job().world_size > 1:
        _end_with_parent()
        with joined():
            yield
    else:
        with _environment_restored(), _others(count, arguments), joined():
            yield


@contextmanager
def joined() -> Iterator[None]:
    """Joins the processes of the job, if finding a common name has not done it, and leaves them at the end."""
    if not torch.distributed.is_initialized():
        join()
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def join() -> None:
    """Waits for all processes of the job, so that they can reach each other from here on."""
    place = place_in_job()
    if place.launcher == "srun":
        environment = cluster_environment()
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = environment.main_address, str(environment.main_port)
    store = _when_all_have_come(place)
    # Gloo for tensors on the CPU, NCCL for those on GPUs.
    torch.distributed.init_process_group(
        store=store, rank=place.rank, world_size=place.world_size, timeout=LONGEST_WAIT
    )


def _when_all_have_come(place: Place) -> Store:
    """Waits until all processes have reached the first one's store, in steps so short that signals are heeded.

    Raises:
        HeadstartError: one has not come within LONGEST_START, or the address is invalid or in use.
    """
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), os.environ.get("MASTER_PORT", "29500")
    where, start, said = f"{host}:{port}", time.monotonic(), False
    store, come = None, 0
    while True:
        is_new = store is None
        store = _store(place, host, port) if store is None else store
        come = int(store.add("arrived", int(is_new))) if store is not None else 0
        if store is not None and come >= place.world_size:
            return store
        waited = time.monotonic() - start
        who = f"{come} of {place.world_size} processes have come" if store is not None else "it does not answer"
        if waited > LONGEST_START:
            raise HeadstartError(
                f"the processes of this job have not met at {where} (MASTER_ADDR:MASTER_PORT) within "
                f"{LONGEST_START / 60:.0f} minutes: {who}; {ALONE}"
            )
        if waited > SILENT and not said:
            said = True
            print(
                f"process {place.rank + 1} of {place.world_size} waits for the others at {where}: {who}; {ALONE}",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(POLL / 5)


def _store(place: Place, host: str, port: str) -> Store | None:
    """Returns where the processes meet; None: whoever has it, the first process or torchrun, does not answer yet."""
    # torchrun has one already.
    is_own = place.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        if not 0 < int(port) < 2**16:
            raise ValueError("there is no such port")
        if not is_own:
            socket.create_connection((host, int(port)), timeout=1).close()
        store = TCPStore(host, int(port), place.world_size, is_own, timeout=LONGEST_WAIT, wait_for_workers=False)
    except (ValueError, OverflowError, RuntimeError, socket.gaierror) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise HeadstartError(f"the processes of this job cannot meet at {host}:{port}: {reason}") from None
    except OSError:
        return None
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"headstart/attempt_{attempt}", store)


class _ByVariables(LightningEnvironment):
    def teardown(self) -> None:
        """Keeps WORLD_SIZE, which Lightning would delete: headstart.machine reads it after a fit too."""


def cluster_environment() -> ClusterEnvironment:
    """Returns what tells Lightning the ranks: left alone, it asks SLURM, whoever has started the processes."""
    if place_in_job().launcher == "srun":
        return SLURMEnvironment(auto_requeue=False)
    return TorchElasticEnvironment() if TorchElasticEnvironment.detect() else _ByVariables()


@contextmanager
def _others(count: int, arguments: Sequence[str]) -> Iterator[None]:
    """Runs the block with `count` - 1 more processes on this machine, as rank 0."""
    shared = {
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    command = [sys.executable, "-m", "headstart", "train", *arguments]
    others = [
        subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), PARENT: str(os.getpid())},
            stdin=subprocess.DEVNULL,
        )
        for rank in range(1, count)
    ]
    os.environ |= shared | {"RANK": "0", "LOCAL_RANK": "0"}
    done = threading.Event()
    threading.Thread(target=_watch, args=(others, done), daemon=True).start()
    try:
        yield
        _wait(others)
    except RuntimeError as error:
        if PEER_GONE.search(str(error)):
            _wait(others)
        raise
    finally:
        done.set()
        for process in others:
            process.kill()
            process.wait()


def _wait(others: Sequence["subprocess.Popen[bytes]"]) -> None:
    """Waits until the others have ended; raises HeadstartError if one of them failed."""
    end = time.monotonic() + GRACE
    for process in others:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0, end - time.monotonic()))
    if sentence := _failure(others):
        raise HeadstartError(sentence)


def _failure(others: Sequence["subprocess.Popen[bytes]"]) -> str | None:
    for number, process in enumerate(others, 2):
        if status := process.poll():
            how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}; see its message"
            return f"process {number} of {len(others) + 1} {how}"
    return None


def _watch(others: Sequence["subprocess.Popen[bytes]"], done: threading.Event) -> None:
    """Ends this process with the others' error, if it waits in vain for one that is gone and does not notice."""
    while not done.wait(POLL):
        if (sentence := _failure(others)) and not done.wait(GRACE):
            print(f"error: {sentence}", file=sys.stderr)
            abandon_output()
            for process in others:
                process.kill()
            os._exit(1)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, even where it waits for others."""
    if PARENT in os.environ:
        threading.Thread(target=_exit_without, args=(int(os.environ[PARENT]),), daemon=True).start()


def _exit_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    os._exit(1)


@contextmanager
def _environment_restored() -> Iterator[None]:
    before = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    try:
        yield
    finally:
        for name in VARIABLES:
            os.environ.pop(name, None)
        os.environ.update(before)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
