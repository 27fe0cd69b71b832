"""Weights files, read without running code."""

import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from headstart.errors import HeadstartError

# Reading files of torch.save without running any code in them.


# Under which keys training scripts save a state_dict, averaged weights first.
CONTAINERS = (
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "teacher",
    "student",
    "backbone",
    "network",
    "module",
)
# Prefixes of one network in a file with several, or with other tensors beside it.
OF_ONE_NETWORK = (
    *("module.encoder_q.", "encoder_q.", "base_encoder.", "module.base_encoder.", "teacher.", "backbone.", "model."),
)
# Those that wrappers put before all names.
PREFIXES = (*OF_ONE_NETWORK, "module.", "_orig_mod.", "net.", "network.", "encoder.", "student.")
HINTS = {
    b"version https://git-lfs": "is a pointer of Git LFS in place of the file: fetch it with git lfs pull",
    b"<": "is a web page, not weights: the download was answered with an error or a login",
}


def read_safely(path: Path) -> Any:
    """What torch.save wrote to `path`, provided it consists of tensors and plain values.

    Raises:
        HeadstartError: the file is missing, damaged, or holds something that could run code.
    """
    if not path.is_file():
        raise HeadstartError(f"{path} does not exist, or is a folder")
    _check_content(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _unsafe(path) from None
    except Exception:
        # What a damaged file raises depends on which byte is damaged.
        raise HeadstartError(f"{path} is damaged, or was not written by torch.save") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads the state_dict in the file `path`, of torch.save or safetensors, and takes off what training scripts add.

    These are keys around it (state_dict, model, …), of which weights that are averaged win, and prefixes of all names
    that wrappers leave (module. of DataParallel, _orig_mod. of torch.compile, model. of Lightning, …). Of MoCo and
    DINO, the query encoder or the teacher is taken. Half precision becomes float32.

    Raises:
        HeadstartError: as `read_safely`, the file is not a state_dict, or a tensor holds NaN or infinity.
    """
    state = _without_prefixes(_unwrapped(_read_safetensors(path) if _is_safetensors(path) else read_safely(path)))
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise HeadstartError(f"{path} is not a state_dict: it must map names to tensors, and hold nothing else")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise HeadstartError(f"{path} is damaged: its tensor {name} holds NaN or infinite values")
    halves = (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in halves else tensor for name, tensor in state.items()}


def _is_safetensors(path: Path) -> bool:
    return path.suffix == ".safetensors"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise HeadstartError(f"{path} does not exist, or is a folder")
    try:
        # It comes with timm.
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ModuleNotFoundError:
        raise HeadstartError(f"{path} needs safetensors, which is not installed: pip install safetensors") from None
    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError):
        raise HeadstartError(f"{path} is damaged, or is no safetensors file") from None
    return found


def _unwrapped(value: Any) -> Any:
    """The state_dict within what a training script has saved."""
    while isinstance(value, dict) and not all(isinstance(v, Tensor) for v in value.values()):
        inner = next((value[key] for key in CONTAINERS if isinstance(value.get(key), dict)), None)
        if inner is None:
            return value
        value = inner
    return value


def _without_prefixes(state: Any) -> Any:
    """`state` with the names that the network itself gives its tensors."""
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        return state
    while (prefix := next((p for p in PREFIXES if _has(state, p)), None)) is not None:
        state = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    return state


def _has(state: dict[str, Any], prefix: str) -> bool:
    """Whether a wrapper of the network has put `prefix` before its names: before all, or all that are of a network."""
    within = sum(name.startswith(prefix) for name in state)
    return within == len(state) > 0 if prefix not in OF_ONE_NETWORK else within > 0


def _check_content(path: Path) -> None:
    """Raises HeadstartError, with what it is, for files that often take the place of one of torch.save."""
    with path.open("rb") as file:
        start = file.read(1024).lstrip()
    hint = next((text for beginning, text in HINTS.items() if start.startswith(beginning)), None)
    if not start:
        hint = "is empty"
    if hint is not None:
        raise HeadstartError(f"{path} is damaged, or was not written by torch.save: it {hint}")


def _unsafe(path: Path) -> HeadstartError:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        names = []
    if names:
        return HeadstartError(f"{path} is rejected, because it could run code: it contains {', '.join(names[:3])}")
    # Files of plain pickle, and damaged ones, cannot be told apart without reading them.
    return HeadstartError(f"{path} is rejected: it was not written by torch.save, is damaged, or could run code")


# How the weights in a file get into a network.


def file_of(weights: str) -> Path | None:
    """The file that `weights` names; None: it is a name of published weights.

    Raises:
        HeadstartError: it looks like a file, which does not exist.
    """
    path = Path(weights).expanduser()
    if path.exists():
        return path
    if path.suffix or os.sep in weights:
        raise HeadstartError(f"the weights file {weights} does not exist: give another one with model.weights=FILE")
    return None


def load_weights(module: nn.Module, path: Path, what: str, *, without: str) -> None:
    """Loads the state_dict in the file `path`, except keys that start with `without`, into `module`.

    Raises:
        HeadstartError: the file is not a state_dict; or, beginning with `what`, which tensors do not fit.
    """
    module.load_state_dict(fitting_state(module, path, what, without=without), strict=False)


def fitting_state(module: nn.Module, path: Path, what: str, *, without: str) -> dict[str, Tensor]:
    """The state_dict in the file `path`, except keys that start with `without`; `module` may be on the meta device.

    Raises:
        HeadstartError: as `load_weights`.
    """
    state = {key: value for key, value in read_tensors(path).items() if not key.startswith(without)}
    expected = module.state_dict()
    # Files from before PyTorch 0.4.1 lack BatchNorm's counters, which a frozen one never reads.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in expected]
    if missing or extra:
        parts = [
            f"{len(keys)} {kind} tensors, such as {keys[0]}"
            for keys, kind in ((missing, "missing"), (extra, "unexpected"))
            if keys
        ]
        raise HeadstartError(f"{what}: {'; '.join(parts)}")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            shapes = f"{tuple(value.shape)} instead of {tuple(expected[key].shape)}"
            raise HeadstartError(f"{what}: {key} has shape {shapes}")
    return state
