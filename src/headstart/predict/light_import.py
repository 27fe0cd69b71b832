"""Importing torchvision without PyTorch's compiler, which takes two seconds and which a prediction need not have."""

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

PACKAGE, MODULE = "torch._dynamo", "torch._dynamo.utils"


@contextmanager
def compiler_when_needed() -> Iterator[None]:
    """Modules imported within the block get the compiler when they first use it, instead of now."""
    if PACKAGE in sys.modules:
        yield
        return
    # What torchvision asks for while it is imported.
    sys.modules[PACKAGE] = _Deferred(PACKAGE, disable=_disable)
    sys.modules[MODULE] = _Deferred(MODULE, is_compile_supported=_is_compile_supported)
    try:
        yield
    finally:
        _forget()


class _Deferred(ModuleType):
    """Stands for a module until something else of it than `known` is asked for."""

    def __init__(self, name: str, **known: Any) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            # Asked for by Python's import system.
            raise AttributeError(name)
        _forget()
        return getattr(importlib.import_module(self.__name__), name)


def _forget() -> None:
    for name in (PACKAGE, MODULE):
        if isinstance(sys.modules.get(name), _Deferred):
            del sys.modules[name]


def _is_compile_supported(*arguments: Any) -> Any:
    return importlib.import_module(MODULE).is_compile_supported(*arguments)


def _disable(function: Any = None, *arguments: Any, **options: Any) -> Callable[..., Any]:
    """`function`, which the compiler leaves as it is, once there is a compiler."""
    if not isinstance(function, FunctionType):
        _forget()
        decorated: Callable[..., Any] = importlib.import_module(PACKAGE).disable(function, *arguments, **options)
        return decorated

    @functools.wraps(function)
    def run(*own: Any, **named: Any) -> Any:
        compiler = sys.modules.get(PACKAGE)
        if compiler is None or isinstance(compiler, _Deferred):
            return function(*own, **named)
        return compiler.disable(function, *arguments, **options)(*own, **named)

    return run
