"""Exported models as files: what they say of themselves, and how they are opened and run."""

import ctypes
import importlib.util
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
from PIL import Image

from headstart.data.preprocessing import Preprocessing, center, network_input
from headstart.errors import HeadstartError
from headstart.files import LoadedFile
from headstart.machine import core_count

# What a model file says of itself, as plain values: the same in every format.


# Grows when a reader of the last one would go wrong.
FORMAT = 1


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    `compared` is how far it is from its checkpoint, a headstart.export.write.Difference; None: not compared yet.
    """

    arch: str
    head: str
    weights_sha256: str
    temperature: float
    seed: int
    data_fingerprint: str
    headstart: str
    torch: str
    date: str
    compared: dict[str, Any] | None = None


@dataclass(frozen=True)
class ModelInfo:
    """Below the score `familiarity_threshold`, an image is unlike anything trained on; None: it is not known.

    `input` and `precision` are as in headstart.config.model.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    familiarity_threshold: float | None
    input: str
    precision: str
    provenance: Provenance

    def as_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts, with `format` and the provenance beside the other keys."""
        own = {
            "format": FORMAT,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.as_dict(),
            "familiarity_threshold": self.familiarity_threshold,
            "input": self.input,
            "precision": self.precision,
        }
        return own | asdict(self.provenance)

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path) -> "ModelInfo":
        """The inverse of `as_dict`, of the file `path`.

        Raises:
            HeadstartError: headstart did not write it, or a newer version did.
        """
        try:
            if values["format"] > FORMAT:
                raise HeadstartError(f"{path} was written by a newer version of headstart ({values['headstart']})")
            return cls(
                tuple(values["classes"]),
                Preprocessing(**values["preprocessing"]),
                values["familiarity_threshold"],
                values["input"],
                values["precision"],
                Provenance(**{name: values[name] for name in Provenance.__dataclass_fields__}),
            )
        except (KeyError, TypeError, AttributeError):
            raise HeadstartError(f"{path} is not a model that headstart exported: its metadata are missing") from None


# Exported models as they run: in ONNX Runtime, without PyTorch, or as a program of torch.export.


Array = np.ndarray[Any, np.dtype[Any]]
# The file with what a .pt2 archive says of itself.
PT2_INFO = "headstart.json"
_opened: "WeakSet[OnnxFile]" = WeakSet()


class ModelFile(Protocol):
    """An exported model: uint8 images → probabilities (N, classes) and familiarity scores (N), both float32.

    The images are (N, 3, image_size, image_size); if `info.input` is "any", one image (H, W, 3).
    """

    info: ModelInfo

    def __call__(self, images: Array) -> tuple[Array, Array]: ...


def open_model(path: Path, accelerator: str = "cpu") -> ModelFile:
    """The exported model `path`, running on `accelerator` (auto, cpu, cuda, mps).

    Raises:
        HeadstartError: there is no such file, headstart did not write it, a package is missing, or it cannot run on
            the accelerator.
    """
    if not path.is_file():
        raise HeadstartError(f"model={path} does not exist, or is not a file")
    return OnnxFile(path, accelerator) if path.suffix.lower() == ".onnx" else Pt2File(path, accelerator)


def is_exported(path: Path) -> bool:
    """Whether headstart wrote the model `path`. Its code, if it has any, is not run."""
    if path.suffix.lower() == ".pt2":
        # PyTorch would complain on the terminal about a file that is none.
        return zipfile.is_zipfile(path) and any(name.endswith(PT2_INFO) for name in zipfile.ZipFile(path).namelist())
    try:
        return path.is_file() and bool(OnnxFile(path, "cpu").info)
    except HeadstartError:
        return False


class OnnxFile:
    """A model in ONNX Runtime. Reading one never runs code in it."""

    def __init__(self, path: Path, accelerator: str) -> None:
        _check_installed("onnxruntime", path)
        import onnxruntime  # type: ignore[import-untyped]

        # Else it prints errors, besides raising them.
        onnxruntime.set_default_logger_severity(4)
        self._providers = _providers(accelerator, onnxruntime.get_available_providers())
        self._accelerator, self._file = accelerator, LoadedFile.at(path)
        self._session = self._opened()
        _opened.add(self)
        texts = self._session.get_modelmeta().custom_metadata_map
        self.info = ModelInfo.from_dict({key: _parsed(text) for key, text in texts.items()}, path)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: Array) -> tuple[Array, Array]:
        if self._session is None:
            self._file.check_unchanged()
            self._session = self._opened()
        probabilities, familiarity = self._session.run(None, {self._input: images})
        return probabilities, familiarity

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self._file, self._accelerator)

    def abandon_session(self) -> None:
        """Leaves the session of the parent to itself, in a forked process.

        Its threads are not there: whether it were run or deleted, this process would wait for them forever.
        """
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None

    def _opened(self) -> Any:
        import onnxruntime

        path = self._file.path
        try:
            # Not by its name, which need not be UTF-8.
            return onnxruntime.InferenceSession(path.read_bytes(), _options(), providers=self._providers)
        except OSError:
            raise
        except Exception as error:
            raise _not_loaded(path, error) from None


class Pt2File:
    """A program of torch.export, on the CPU. Reading one may run code that somebody has put into it."""

    def __init__(self, path: Path, accelerator: str) -> None:
        _check_installed("torch", path)
        import torch

        from headstart.data.workers import use_one_thread_after_fork

        if accelerator not in ("auto", "cpu"):
            raise HeadstartError(f"accelerator={accelerator} is not available for {path}: .pt2 files run on the CPU")
        self._file, files = LoadedFile.at(path), {PT2_INFO: ""}
        try:
            with path.open("rb") as file:
                program = torch.export.load(file, extra_files=files)
        except OSError:
            raise
        except Exception as error:
            raise _not_loaded(path, error) from None
        self.info = ModelInfo.from_dict(_parsed(files[PT2_INFO]), path)
        self._module, self._no_grad, self._tensor = program.module(), torch.no_grad, torch.from_numpy
        self._begin = use_one_thread_after_fork

    def __call__(self, images: Array) -> tuple[Array, Array]:
        self._begin()
        with self._no_grad():
            probabilities, familiarity = self._module(self._tensor(images))
        return probabilities.numpy(), familiarity.numpy()

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self._file, "cpu")


def _abandon_sessions() -> None:
    for model in _opened:
        model.abandon_session()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_sessions)


def _open_again(file: LoadedFile, accelerator: str) -> ModelFile:
    """The model of a pickled or copied one."""
    file.check_unchanged()
    return open_model(file.path, accelerator)


def prepared(image: Image.Image, info: ModelInfo) -> Array:
    """What a model takes of an RGB image: uint8, (3, image_size, image_size), or (H, W, 3) if it takes any size."""
    if info.input == "any":
        return np.asarray(center(image) if info.preprocessing.resize_mode == "crop" else image)
    return network_input(image, info.preprocessing)


def run(model: ModelFile, images: Sequence[Array]) -> tuple[Array, Array]:
    """Probabilities (N, classes) and familiarity scores (N) of N images as `prepared`."""
    if model.info.input == "model":
        return model(np.stack(images))
    probabilities, familiarity = zip(*map(model, images), strict=True)
    return np.concatenate(probabilities), np.concatenate(familiarity)


def _options() -> Any:
    """One thread per core that this process may use, none of which spins while it waits for others."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = core_count()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(accelerator: str, available: list[str]) -> list[str]:
    """ONNX Runtime's names of what runs a model, the preferred one first."""
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    if accelerator == "cpu" or (accelerator == "auto" and cuda not in available):
        return [cpu]
    if accelerator == "mps" or cuda not in available:
        raise HeadstartError(f"accelerator={accelerator} is not available: this ONNX Runtime has none")
    return [cuda, cpu]


def _check_installed(package: str, path: Path) -> None:
    if importlib.util.find_spec(package) is None:
        raise HeadstartError(f"model={path} needs {package}, which is not installed: python -m pip install {package}")


def _not_loaded(path: Path, error: Exception) -> HeadstartError:
    return HeadstartError(f"{path} is damaged, or not a model file: {next(iter(str(error).splitlines()), '')}")


def _parsed(text: str) -> Any:
    """The JSON in `text`; None: it is something else."""
    try:
        return json.loads(text)
    except ValueError:
        return None
