"""A compiled network, about twice as fast as PyTorch's eager mode on a CPU: made once per machine, then loaded."""

import ctypes
import hashlib
import json
import os
import shutil
import stat
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from timeit import timeit
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from headstart.features.cache import delete, get_or_make, is_kept, keep, make_room, read
from headstart.files import cache_folder, exclusively, folder_in_cache, read_json, write_json
from headstart.log import log
from headstart.machine import core_count, cpu_instructions, cpu_name


def with_folded_batch_norm(network: nn.Module) -> nn.Module:
    """Returns a network that computes what `network` does in eval mode, with BatchNorm as a part of the convolutions.

    That leaves a compiler half as much to do. It is `network` itself, which stays as it is, if it cannot be traced.
    """
    # They take a while to import, and only compiling needs them.
    from torch.fx import symbolic_trace
    from torch.fx.experimental.optimization import fuse

    try:
        traced = symbolic_trace(network)
        calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
        several = (traced.get_submodule(str(name)) for name, count in calls.items() if count > 1)
        # Another BatchNorm may follow each call.
        if any(isinstance(module, _ConvNd) for module in several):
            return network
        # In place: layers are replaced in what was traced, and none of them is changed.
        return fuse(traced, inplace=True, no_trace=True)
    # Tracing fails in any way that a network's own code does.
    except Exception:
        return network


# The C interface of AOTInductor (torch/csrc/inductor/aoti_runtime/interface.h) is called by way of ctypes, because
# PyTorch's public loader holds Python's lock while a network runs, so that only one core would encode.

CompiledModel = Callable[[Tensor], Tensor]

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_capsule_of = ctypes.pythonapi.PyCapsule_New
_capsule_of.restype, _capsule_of.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


def library_in(package: Path) -> bytes:
    """Returns the shared library in what `aoti_compile_and_package` has written.

    Raises:
        ValueError: it cannot run by itself.
    """
    with ZipFile(package) as archive:
        names = archive.namelist()
        # It lists operations that need PyTorch's loader.
        if any(name.endswith(".wrapper.json") for name in names):
            raise ValueError("it has operations that cannot be compiled")
        (name,) = (name for name in names if name.endswith(".so"))
        return archive.read(name)


def open_program(library: Path, threads: int) -> CompiledModel:
    """Returns a function of one tensor, of the compiled shape, that this many threads may call at the same time.

    Raises:
        OSError: it is no library.
        RuntimeError: it does not run on this machine.
    """
    functions = ctypes.CDLL(str(library))
    create, run = functions.AOTInductorModelContainerCreateWithDevice, functions.AOTInductorModelContainerRun
    pointer, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    create.argtypes = [pointer, size, text, text]
    run.argtypes = [pointer, pointer, size, pointer, size, pointer, pointer]
    container = ctypes.c_void_p()
    _check(create(ctypes.byref(container), threads, b"cpu", None))

    def program(images: Tensor) -> Tensor:
        # The call takes the first away from us, and gives us the second.
        (capsule,) = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors([images])
        given, output = ctypes.c_void_p(_pointer_of(capsule, None)), ctypes.c_void_p()
        _check(run(container, ctypes.byref(given), 1, ctypes.byref(output), 1, None, None))
        (result,) = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs([_capsule_of(output, None, None)])
        return result

    return program


def _check(status: int) -> None:
    if status != 0:
        raise RuntimeError("the compiled network failed")


# Compiled networks are kept in the cache folder, each with its checksum.

FOLDER = "compiled"
MAX_BYTES = 2 * 10**9  # of all files together
WORK = ".work"  # the suffix of the folder of one compilation
ABANDONED = 24 * 3600  # seconds, after which nothing writes to such a folder


def program_path(identity: dict[str, Any]) -> Path:
    """Returns where the program is kept that depends on `identity`, and on the version of PyTorch and the CPU.

    Raises:
        HeadstartError: the cache folder cannot be written.
        PermissionError: somebody else could put programs there.
    """
    values = identity | {"format": 1, "torch": torch.__version__, "cpu": cpu_name(), "instructions": cpu_instructions()}
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:20]
    return _own_folder() / f"{identity['arch'].replace('/', '_')}-{digest}.so"


def _own_folder() -> Path:
    """Returns a folder of this user alone: programs are run, and others may share the cache."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    folder = folder_in_cache(FOLDER) / str(user)
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    is_shared = hasattr(os, "getuid") and (status.st_uid != user or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH))
    if is_shared or not stat.S_ISDIR(status.st_mode):
        raise PermissionError(f"{folder} is not a folder that only you can write")
    return folder


# The largest difference from the uncompiled network that is accepted, relative to the largest of its outputs. The
# rounding of bf16 adds up over many layers.
TOLERANCES = {"32": 1e-3, "bf16": 0.1}


class CompilationFailed(Exception):
    """Says why a network cannot be compiled, such as that there is no compiler."""


class Unusable(CompilationFailed):
    """Says that what was compiled cannot be loaded here, or gives other numbers."""


def compiled_program(network: nn.Module, example: Tensor, precision: str, identity: dict[str, Any]) -> CompiledModel:
    """Returns code compiled for inputs like `example`, which threads may run at the same time, each on one core.

    What one process has compiled, every later one loads in a fraction of the time.

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

    def compile_it() -> None:
        log.info("compiling %s, once for this machine", identity["arch"])
        _compile(_InPrecision(with_folded_batch_norm(network), precision).eval(), example, path)

    program = get_or_make(lambda: _load(path, uncompiled, example, tolerance), exclusively(path), compile_it)
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
    """Runs `network`, under autocast if `precision` is "bf16". Around a tracer autocast would not be traced."""

    def __init__(self, network: nn.Module, precision: str) -> None:
        super().__init__()
        self._network, self._enabled = network, precision == "bf16"

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._enabled, cache_enabled=False):
            result: Tensor = self._network(images)
            return result


def _load(path: Path, uncompiled: nn.Module, example: Tensor, tolerance: float) -> CompiledModel | None:
    """Returns the program in `path`; None: there is none, or it is damaged, or gives other numbers on this machine."""
    try:
        program = read(path, lambda library: open_program(library, core_count()), "it is compiled again")
        if program is None:
            return None
        with torch.no_grad():
            expected, actual = (run(example).float() for run in (uncompiled, program))
    except (OSError, RuntimeError) as error:
        log.warning("%s could not be loaded: %s", path, _first_line(error))
        return None
    if (actual - expected).abs().max() <= tolerance * expected.abs().max():
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
        keep(path, _compile_in(work, network, example).replace)
    except OSError as error:
        raise CompilationFailed(_first_line(error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    make_room(path.parent.glob("*.so"), MAX_BYTES, path)
    for other in path.parent.glob(f"*{WORK}"):
        if time.time() - other.stat().st_mtime > ABANDONED:
            shutil.rmtree(other, ignore_errors=True)


def _missing_compiler() -> str | None:
    """Returns the compiler that is missing, for which PyTorch would look after most of the work; None: it is there."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return None if shutil.which(name.split()[0]) else name


def _compile_in(work: Path, network: nn.Module, example: Tensor) -> Path:
    """Returns the compiled library in `work`, an empty folder, where inductor keeps all of its files."""
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


# How many times as fast as uncompiled code the compiled code of each backbone is, measured once per machine: that of
# some networks, such as Swin Transformers, is slower.
FILE = "compiled_speed.json"
REPEATS = 3


def measured_speed(key: str) -> float | None:
    """Returns what was measured here for `key`, which names everything that it depends on; None: nothing was."""
    return _read().get(key)


def keep_speed(key: str, speed: float) -> None:
    """Stores a speed for later processes. Without a cache folder, it is measured again next time."""
    with suppress(OSError):
        write_json(cache_folder() / FILE, _read() | {key: round(speed, 3)})


def measure_speed(key: str, uncompiled: Callable[[], object], compiled: Callable[[], object]) -> float:
    """Times both, in turn, and keeps the ratio."""
    pairs = [(timeit(uncompiled, number=1), timeit(compiled, number=1)) for _ in range(REPEATS)]
    speed = statistics.median(slow / fast for slow, fast in pairs)
    keep_speed(key, speed)
    return speed


def _read() -> dict[str, float]:
    try:
        speeds = read_json(cache_folder() / FILE)
    except (OSError, ValueError):
        return {}
    return {key: v for key, v in speeds.items() if isinstance(v, float)} if isinstance(speeds, dict) else {}
