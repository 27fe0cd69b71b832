"""Exported models: their metadata, and how they run in ONNX Runtime, without PyTorch, or as a .pt2 program."""

import ctypes
import importlib.util
import json
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakSet

import numpy as np
from PIL import Image

from headstart.data.preprocessing import Array, Preprocessing, center, network_input
from headstart.errors import HeadstartError
from headstart.files import LoadedFile
from headstart.machine import core_count

# Grows when a reader of the previous format would misread a file.
FORMAT = 1
# What the graph calls its input and outputs.
INPUT, OUTPUTS = "images", ("probabilities", "familiarity")


@dataclass(frozen=True)
class ModelInfo:
    """Describes a model file, in the same words in every format.

    Below the score `familiarity_threshold`, an image is unusual; None if the threshold is unknown. `input`
    and `precision` are those of headstart.config.model. `compared` is a headstart.export.write.Difference from the
    checkpoint as a dict, or None before the comparison.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    familiarity_threshold: float | None
    input: str
    precision: str
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

    def as_dict(self) -> dict[str, Any]:
        """Returns numbers, strings, lists and dicts, with the version of the format first."""
        plain = {"classes": list(self.classes), "preprocessing": self.preprocessing.as_dict()}
        return {"format": FORMAT} | vars(self) | plain

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path) -> "ModelInfo":
        """Returns the inverse of `as_dict`; `path`, the file that the values are from, is named in errors.

        Raises:
            HeadstartError: headstart did not write the file, or a newer version did.
        """
        try:
            if values["format"] > FORMAT:
                raise HeadstartError(f"{path} was written by a newer version of headstart ({values['headstart']})")
            typed = {"classes": tuple(values["classes"]), "preprocessing": Preprocessing(**values["preprocessing"])}
            return cls(**{name: values[name] for name in cls.__dataclass_fields__} | typed)
        except (KeyError, TypeError, AttributeError):
            raise HeadstartError(f"{path} is not a model that headstart exported: its metadata are missing") from None


# The file in a .pt2 archive that holds its ModelInfo.
PT2_INFO = "headstart.json"
_opened: "WeakSet[OnnxFile]" = WeakSet()


class ModelFile(Protocol):
    """An exported model: uint8 images → probabilities (N, classes) and familiarity scores (N), both float32.

    The images are (N, 3, image_size, image_size); if `info.input` is "any", one image (H, W, 3).
    """

    info: ModelInfo

    def __call__(self, images: Array) -> tuple[Array, Array]: ...


def open_model(path: Path, accelerator: str = "cpu") -> ModelFile:
    """Opens the exported model `path`, to run on `accelerator` (auto, cpu, cuda, mps).

    Raises:
        HeadstartError: there is no such file, headstart did not write it, a package is missing, or it cannot run on
            the accelerator.
    """
    if not path.is_file():
        raise HeadstartError(f"model={path} does not exist, or is not a file")
    return OnnxFile(path, accelerator) if path.suffix.lower() == ".onnx" else Pt2File(path, accelerator)


def is_exported(path: Path) -> bool:
    """Returns whether headstart wrote the model `path`. Its code, if it has any, is not run."""
    if path.suffix.lower() == ".pt2":
        # PyTorch prints a warning when it loads a file that is no archive.
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

        # By default, it prints errors besides raising them.
        onnxruntime.set_default_logger_severity(4)
        self._providers = _providers(accelerator, onnxruntime.get_available_providers())
        self._accelerator, self._file = accelerator, LoadedFile.at(path)
        self._session = self._open_session()
        _opened.add(self)
        texts = self._session.get_modelmeta().custom_metadata_map
        self.info = ModelInfo.from_dict({key: _parsed(text) for key, text in texts.items()}, path)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images: Array) -> tuple[Array, Array]:
        if self._session is None:
            self._file.check_unchanged()
            self._session = self._open_session()
        probabilities, familiarity = self._session.run(None, {self._input: images})
        return probabilities, familiarity

    def __reduce__(self) -> tuple[Any, ...]:
        return _open_again, (self._file, self._accelerator)

    def abandon_session(self) -> None:
        """Drops the parent's session in a forked process, without deleting it.

        The session's threads do not exist here, so running it or deleting it would wait for them forever; the extra
        reference keeps Python from deleting it.
        """
        if self._session is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session = None

    def _open_session(self) -> Any:
        import onnxruntime

        path, options = self._file.path, onnxruntime.SessionOptions()
        options.intra_op_num_threads = core_count()
        # Threads that spin while they wait for each other would slow down other programs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            # Bytes, because ONNX Runtime opens no file whose name is not UTF-8.
            return onnxruntime.InferenceSession(path.read_bytes(), options, providers=self._providers)
        except OSError:
            raise
        except Exception as error:
            raise _not_loaded(path, error) from None


class Pt2File:
    """A program of torch.export, on the CPU. Reading one may run code that somebody has put into it."""

    def __init__(self, path: Path, accelerator: str) -> None:
        _check_installed("torch", path)
        import torch

        from headstart.processes import use_one_thread_after_fork

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
    """Opens the model that a pickled or copied one was opened from."""
    file.check_unchanged()
    return open_model(file.path, accelerator)


def prepare_image(image: Image.Image, info: ModelInfo) -> Array:
    """Returns the input of a model: uint8, (3, image_size, image_size), or (H, W, 3) if it takes images of any size."""
    if info.input == "any":
        return np.asarray(center(image) if info.preprocessing.resize_mode == "crop" else image)
    return network_input(image, info.preprocessing)


def run_model(model: ModelFile, images: Sequence[Array]) -> tuple[Array, Array]:
    """Returns probabilities (N, classes) and familiarity scores (N) for N images from `prepare_image`."""
    if model.info.input == "model":
        return model(np.stack(images))
    probabilities, familiarity = zip(*map(model, images), strict=True)
    return np.concatenate(probabilities), np.concatenate(familiarity)


def _providers(accelerator: str, available: list[str]) -> list[str]:
    """Returns ONNX Runtime's names of what may run a model on `accelerator`, the preferred one first."""
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
    """Returns the value of the JSON in `text`, or None if it is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None
