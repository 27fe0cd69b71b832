"""A compiled network as a function. PyTorch's own loader holds Python's lock while it runs; this one does not.

It calls the C interface of AOTInductor (torch/csrc/inductor/aoti_runtime/interface.h).
"""

import ctypes
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import torch
from torch import Tensor

Program = Callable[[Tensor], Tensor]

_pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
_pointer_of.restype, _pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
_capsule_of = ctypes.pythonapi.PyCapsule_New
_capsule_of.restype, _capsule_of.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


def library_in(package: Path) -> bytes:
    """The shared library in what `aoti_compile_and_package` has written.

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


def open_program(library: Path, threads: int) -> Program:
    """A function of one tensor, of the shape that was compiled for, which so many threads may call at the same time.

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
        given, found = ctypes.c_void_p(_pointer_of(capsule, None)), ctypes.c_void_p()
        _check(run(container, ctypes.byref(given), 1, ctypes.byref(found), 1, None, None))
        (result,) = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs([_capsule_of(found, None, None)])
        return result

    return program


def _check(status: int) -> None:
    if status != 0:
        raise RuntimeError("the compiled network failed")
