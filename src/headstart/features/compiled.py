"""Compiled networks for CPUs: what one process has compiled, every later one loads in a fraction of a second."""

import hashlib
import json
import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.features.program import Program, library_in, open_program
from headstart.files import exclusively, folder_in_cache, sha256_of
from headstart.log import log
from headstart.machine import core_count, cpu_name

FOLDER = "compiled"
MAX_BYTES = 2 * 10**9  # of all files together
WORK = ".work"  # the suffix of the folder of one compilation
ABANDONED = 24 * 3600  # seconds, after which nothing writes to such a folder
# The largest difference from the uncompiled network that is accepted, relative to the largest of its outputs. The
# rounding of bf16 adds up over many layers.
TOLERANCES = {"32": 1e-3, "bf16": 0.1}


class CompilationFailed(Exception):
    """There is no compiler, it cannot compile the network, or what it made gives other numbers; with the reason."""


def compiled_program(network: nn.Module, example: Tensor, precision: str, identity: dict[str, Any]) -> Program:
    """The code compiled for inputs like `example`, which threads may run at the same time, each on one core.

    Args:
        network: takes `example`; frozen, and in eval mode.
        precision: "bf16" (autocast) or "32".
        identity: what the result depends on, besides the versions of headstart's file and of PyTorch, and the CPU.

    Raises:
        CompilationFailed: it was not kept yet, and could not be made.
    """
    path = _path(identity | {"shape": list(example.shape), "precision": precision})
    uncompiled, tolerance = _InPrecision(network, precision).eval(), TOLERANCES[precision]
    if (program := _load(path, uncompiled, example, tolerance)) is not None:
        return program
    with exclusively(path):
        # Another process may have compiled it in the meantime.
        program = _load(path, uncompiled, example, tolerance)
        if program is None:
            log.info("compiling %s, once for this machine", identity["arch"])
            _compile(uncompiled, example, path)
            program = _load(path, uncompiled, example, tolerance)
        if program is None:
            raise CompilationFailed("the compiled code gives other numbers than the uncompiled network")
    _make_room(keep=path)
    return program


def is_compiled(example_shape: tuple[int, ...], precision: str, identity: dict[str, Any]) -> bool:
    """Whether it is kept (it may turn out to be damaged)."""
    return _checksum(_path(identity | {"shape": list(example_shape), "precision": precision})).exists()


def _path(identity: dict[str, Any]) -> Path:
    values = identity | {"format": 1, "torch": torch.__version__, "cpu": cpu_name(), "isa": _instructions()}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:20]
    return folder_in_cache(FOLDER) / f"{identity['arch'].replace('/', '_')}-{digest}.so"


def _instructions() -> str:
    """What PyTorch's own kernels use: a CPU's name does not say what a virtual machine passes on."""
    return torch.backends.cpu.get_cpu_capability()


class _InPrecision(nn.Module):
    """`network` under autocast if `precision` is "bf16". Around a tracer autocast would not be traced."""

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        self._network, self._enabled = network, precision == "bf16"

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._enabled, cache_enabled=False):
            result: Tensor = self._network(images)
            return result


def _load(path: Path, uncompiled: nn.Module, example: Tensor, tolerance: float) -> Program | None:
    """The program in `path`; None: there is none, or it is damaged, or gives other numbers on this machine."""
    try:
        if _checksum(path).read_bytes() != sha256_of(path).encode():
            log.warning("%s is damaged; it is compiled again", path)
            return None
        program = open_program(path, core_count())
        with torch.no_grad():
            expected, found = (run(example).float() for run in (uncompiled, program))
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:
        log.warning("%s could not be loaded (%s); it is compiled again", path, _first_line(error))
        return None
    with suppress(OSError):
        os.utime(path)
    if (found - expected).abs().max() <= tolerance * expected.abs().max():
        return program
    log.warning("%s gives other numbers than the uncompiled network", path)
    _delete(path)
    return None


def _compile(network: nn.Module, example: Tensor, path: Path) -> None:
    """Writes `path`, completely or not at all."""
    work = path.with_suffix(WORK)
    # Of a process that was killed; only the holder of the lock writes here.
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    try:
        library = _compile_in(work, network, example)
        checksum = _checksum(library)
        checksum.write_text(sha256_of(library), encoding="utf-8")
        # Whatever a power failure leaves, the checksum tells.
        library.replace(path)
        checksum.replace(_checksum(path))
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _compile_in(work: Path, network: nn.Module, example: Tensor) -> Path:
    """The library, in a folder where nothing else is, also not of a compilation that was interrupted."""
    # They take seconds to import.
    from torch._inductor import aoti_compile_and_package, config
    from torch._inductor.utils import fresh_cache

    # Freezing folds BatchNorm into the convolutions and packs their weights.
    settings = {"freezing": True, "cpp.threads": 1, "aot_inductor.precompile_headers": False}
    try:
        with fresh_cache(dir=str(work), delete=False), config.patch(settings), torch.no_grad():
            exported = torch.export.export(network, (example,))
            package = aoti_compile_and_package(exported, package_path=str(work / "model.pt2"))
        library = work / "model.so"
        library.write_bytes(library_in(Path(package)))
        return library
    # Whatever it does not like, also a full disk, the network runs without it.
    except Exception as error:
        raise CompilationFailed(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _make_room(keep: Path) -> None:
    """Deletes the programs that were not used for longest, until the rest fits, and what killed processes left."""
    programs = sorted(keep.parent.glob("*.so"), key=lambda path: path.stat().st_mtime)
    size = sum(path.stat().st_size for path in programs)
    for path in programs:
        if size > MAX_BYTES and path != keep:
            size -= path.stat().st_size
            _delete(path)
    for work in keep.parent.glob(f"*{WORK}"):
        if time.time() - work.stat().st_mtime > ABANDONED:
            shutil.rmtree(work, ignore_errors=True)


def _checksum(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _delete(path: Path) -> None:
    _checksum(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
