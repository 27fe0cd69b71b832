"""Compiled networks for CPUs: what one process has compiled, every later one loads in a fraction of the time."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.features.folding import with_folded_batch_norm
from headstart.features.program import Program, library_in, open_program
from headstart.features.program_files import WORK, delete, is_kept, is_whole, keep, program_path
from headstart.files import exclusively
from headstart.log import log
from headstart.machine import core_count

# The largest difference from the uncompiled network that is accepted, relative to the largest of its outputs. The
# rounding of bf16 adds up over many layers.
TOLERANCES = {"32": 1e-3, "bf16": 0.1}


class CompilationFailed(Exception):
    """There is no compiler, or it cannot compile the network; with the reason."""


class Unusable(CompilationFailed):
    """What was compiled cannot be loaded here, or gives other numbers."""


def compiled_program(network: nn.Module, example: Tensor, precision: str, identity: dict[str, Any]) -> Program:
    """The code compiled for inputs like `example`, which threads may run at the same time, each on one core.

    Args:
        network: takes `example`; frozen, and in eval mode.
        precision: "bf16" (autocast) or "32".
        identity: what the result depends on, besides the version of PyTorch and the CPU.

    Raises:
        CompilationFailed: it was not kept yet, and could not be made.
    """
    try:
        path = program_path(_whole_identity(example.shape, precision, identity))
    except PermissionError as error:
        raise CompilationFailed(str(error)) from None
    uncompiled, tolerance = _InPrecision(network, precision).eval(), TOLERANCES[precision]
    if (program := _load(path, uncompiled, example, tolerance)) is not None:
        return program
    with exclusively(path):
        # Another process may have compiled it in the meantime.
        program = _load(path, uncompiled, example, tolerance)
        if program is None:
            log.info("compiling %s, once for this machine", identity["arch"])
            _compile(_InPrecision(with_folded_batch_norm(network), precision).eval(), example, path)
            program = _load(path, uncompiled, example, tolerance)
    if program is None:
        raise Unusable("what was compiled cannot be used")
    return program


def is_compiled(example_shape: tuple[int, ...], precision: str, identity: dict[str, Any]) -> bool:
    """Whether it is kept (it may turn out to be damaged)."""
    try:
        return is_kept(program_path(_whole_identity(example_shape, precision, identity)))
    except PermissionError:
        return False


def _whole_identity(shape: tuple[int, ...], precision: str, identity: dict[str, Any]) -> dict[str, Any]:
    return identity | {"shape": list(shape), "precision": precision}


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
        if not is_whole(path):
            log.warning("%s is damaged; it is compiled again", path)
            return None
        program = open_program(path, core_count())
        with torch.no_grad():
            expected, found = (run(example).float() for run in (uncompiled, program))
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError) as error:
        log.warning("%s could not be loaded: %s", path, _first_line(error))
        return None
    if (found - expected).abs().max() <= tolerance * expected.abs().max():
        return program
    log.warning("%s gives other numbers than the uncompiled network", path)
    delete(path)
    return None


def _compile(network: nn.Module, example: Tensor, path: Path) -> None:
    """Writes `path`, completely or not at all."""
    if (missing := _missing_compiler()) is not None:
        raise CompilationFailed(f"there is no C++ compiler ({missing})")
    work = path.with_suffix(WORK)
    # Of a process that was killed; only the holder of the lock writes here.
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir()
        keep(_compile_in(work, network, example), path)
    except OSError as error:
        raise CompilationFailed(_first_line(error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _missing_compiler() -> str | None:
    """The compiler that PyTorch would call, unless there is one: it would look for it after most of the work."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(name.split()[0]) else name


def _compile_in(work: Path, network: nn.Module, example: Tensor) -> Path:
    """The library, in a folder where nothing else is, also not of a compilation that was interrupted."""
    # They take seconds to import.
    from torch._inductor import aoti_compile_and_package, config
    from torch._inductor.utils import fresh_cache

    settings = {
        # Packs the weights of convolutions, and folds into them what BatchNorm is left.
        "freezing": True,
        "cpp.threads": 1,
        # Whether the compiler knows this CPU's vector instructions is not tried out: if it does not, compiling fails.
        "cpp.vec_isa_ok": True,
        # For a single program they take longer than they save, as does optimizing the code around the loops.
        "aot_inductor.precompile_headers": False,
        "aot_inductor.compile_wrapper_opt_level": "O0",
        "aot_inductor.enable_line_tables": False,
    }
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
