"""Reading files of torch.save without running any code in them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headstart.errors import HeadstartError


def read_safely(path: Path) -> Any:
    """What torch.save wrote to `path`, provided it consists of tensors and plain values.

    Raises:
        HeadstartError: the file is missing, damaged, or holds something that could run code.
    """
    if not path.is_file():
        raise HeadstartError(f"{path} does not exist, or is a folder")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise _unsafe(path) from None
    except Exception:
        # What a damaged file raises depends on which byte is damaged.
        raise HeadstartError(f"{path} is damaged, or was not written by torch.save") from None


def check_safe(path: Path) -> None:
    """Raises HeadstartError if `path`, written by torch.save or safetensors, is damaged or could run code."""
    if path.suffix != ".safetensors":
        read_safely(path)
        return
    # It came with the library that reads this format.
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            file.keys()
    except (SafetensorError, OSError):
        raise HeadstartError(f"{path} is damaged, or is no safetensors file") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The state_dict in the file `path`.

    Raises:
        HeadstartError: as `read_safely`, or the file is not a state_dict.
    """
    state = read_safely(path)
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise HeadstartError(f"{path} is not a state_dict: it must map names to tensors, and hold nothing else")
    return state


def _unsafe(path: Path) -> HeadstartError:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        names = []
    if names:
        return HeadstartError(f"{path} is rejected, because it could run code: it contains {', '.join(names[:3])}")
    # Files of plain pickle, and damaged ones, cannot be told apart without reading them.
    return HeadstartError(f"{path} is rejected: it was not written by torch.save, is damaged, or could run code")
