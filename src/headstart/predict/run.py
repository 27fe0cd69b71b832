"""predict.py: chooses the runtime, and imports no more than it needs."""

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from headstart.config.model import is_model_file
from headstart.config.predict import PredictSettings
from headstart.errors import HeadstartError
from headstart.export.model_file import open_model
from headstart.files import PREDICTIONS, REPORT, check
from headstart.predict.exported import ExportedPredictor
from headstart.predict.sources import find_images

# Importing torchvision without PyTorch's compiler, which takes two seconds and which a prediction need not have.


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


# headstart.load: the predictor of a checkpoint or of an exported model.


if TYPE_CHECKING:
    from headstart.predict.predictor import Predictor


# Any stands for ExportedPredictor: what only a Predictor has can be used without a cast.
def load(path: str | Path, *, accelerator: str = "auto", **options: Any) -> "Predictor | Any":
    """The predictor of a checkpoint, as headstart.predict.predictor.load, or of a .onnx or .pt2 file of task=export.

    Args:
        accelerator: "auto", "cpu", "cuda" or "mps".
        options: of a checkpoint: precision, compile and weights.

    Raises:
        HeadstartError: there is no such file, it could not be used, or the machine does not have the accelerator.
    """
    path = Path(path).expanduser()
    if not is_model_file(str(path)):
        # It takes seconds to import, and an exported model may be used where PyTorch is not installed.
        with compiler_when_needed():
            from headstart.predict.predictor import load as load_checkpoint

        return load_checkpoint(path, accelerator=accelerator, **options)
    if options:
        raise HeadstartError(f"{', '.join(options)}: {path} is an exported model, in which that is fixed")
    return ExportedPredictor(open_model(path, accelerator))


# What predict.py does: find images, and predict their classes with a checkpoint or an exported model.


def predict(settings: PredictSettings) -> None:
    """Writes one row per image of the source, including those that cannot be read.

    Raises:
        HeadstartError: there is no checkpoint or model, or no image that could be read, or `output` holds the user's
            own files.
    """
    if settings.output is not None:
        _check_output(settings, Path(settings.output))
    paths = find_images(settings.source)
    # Imported where they are used: a checkpoint takes PyTorch, and an exported model does not.
    if settings.model.file is None:
        with compiler_when_needed():
            from headstart.predict.from_checkpoint import predict_with_checkpoint

        predict_with_checkpoint(settings, paths)
    else:
        from headstart.predict.exported import predict_with_model

        predict_with_model(settings, paths)


def _check_output(settings: PredictSettings, output: Path) -> None:
    """Raises HeadstartError, before anything is read, if a folder that will be written into is not headstart's."""
    check(output, PREDICTIONS, "output")
    for name, kind, is_written in (
        ("annotated", PREDICTIONS, settings.annotate),
        ("contact_sheets", PREDICTIONS, settings.annotate),
        ("explained", PREDICTIONS, settings.explain),
        ("report", REPORT, settings.labelled),
    ):
        if is_written:
            check(output / name, kind)
