"""Provides what the backbones of torchvision and timm share: their choice, pooling, stages and weights files.

One backbone comes with headstart, which trained it from scratch on generated images. In bundled/, a JSON file beside
its weights, a state_dict in float16 without a classifier, records where they come from.
"""

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from headstart.config.model import BUNDLED
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError
from headstart.files import read_json, sha256_of
from headstart.storage import local

BUNDLED_FOLDER = Path(__file__).parent / "bundled"


@dataclass(frozen=True)
class Choice:
    """Names a network and its weights: "default" (the first published ones), "bundled", a name, a file, or None for
    random ones.

    `pooling` makes features from what the last layer outputs: "default" (the network's own), "cls", "avg" or "cls+avg".
    `image_size` in pixels; None: that of the preset. Without `reads_weights`, the network is built as it is with these
    weights, whose file may be gone, but its tensors are random.
    """

    arch: str
    weights: str | None
    pooling: str = "default"
    image_size: int | None = None
    reads_weights: bool = True


@dataclass(frozen=True)
class Network:
    """`module` maps normalized images to features of `embedding_dim`.

    `cut` is the name of the classification layer that was removed; `weights` are their name or the absolute path of
    their file, None: they are random; `library` is the package that the code is from, and its version. `preset` is the
    preprocessing that belongs to the weights, which for a file is a guess: `guess` says whose it is.
    """

    module: nn.Module
    embedding_dim: int
    cut: str
    weights: str | None
    library: str
    preset: Preprocessing
    guess: str | None


@dataclass(frozen=True)
class Provider:
    """Holds the functions of a provider. Each raises HeadstartError, with the reason, for what it does not have.

    Attributes:
        check: (choice) → nothing; whether `load` would fail is found out without a download.
        preset: (arch, weights) → the preprocessing that belongs to the weights.
        load: (choice, seed) → the network; `seed` is of random weights.
        find_stages: (module, images) → the names of the module's blocks, stage by stage from the input.
    """

    check: Callable[[Choice], None]
    preset: Callable[[str, str | None], Preprocessing]
    load: Callable[[Choice, int], Network]
    find_stages: Callable[[nn.Module, Tensor], list[list[str]]]


class TokenPooling(nn.Module):
    """Maps images to the class token, the mean of the patches' tokens, or both, one after the other: features (N, d)
    or (N, 2d).

    Args:
        model: the network, without its classification layer.
        tokens: (model, images) → normalized tokens (N, T, d).
        prefix: how many of them, at the beginning, are not of patches; the first is the class token.
        after: applied to what was pooled, each by itself.
    """

    def __init__(
        self,
        model: nn.Module,
        pooling: str,
        *,
        tokens: Callable[[nn.Module, Tensor], Tensor],
        prefix: int,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.parts = pooling.split("+")
        self._tokens, self._prefix = tokens, prefix
        # A part of `model`, whose parameters must not be there twice.
        self._after = (after or nn.Identity(),)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self._tokens(self.model, images)
        pooled = [tokens[:, 0] if part == "cls" else tokens[:, self._prefix :].mean(1) for part in self.parts]
        return torch.cat([self._after[0](part) for part in pooled], dim=1)


def cannot_pool(pooling: str, arch: str, reason: str) -> HeadstartError:
    """Returns the error for a network that has nothing to pool in this way."""
    return HeadstartError(f"model.pooling={pooling} does not suit model.arch={arch}: {reason}")


# The stages of a network: its blocks, grouped by the size of the feature maps that they output.

T = TypeVar("T")

# If all maps have the same size, as in a vision transformer, the network is divided into this many equal parts.
PARTS = 4
# The most groups that are stages by themselves.
MOST_STAGES = 9
# A module with at least this fraction of the parameters is a container rather than a block.
CONTAINER = 0.9


def find_stages(network: nn.Module, images: Tensor) -> list[list[str]]:
    """Returns the names of the blocks with parameters, stage by stage from the input; `images` are a batch to try.

    Every parameter of `network` is in one of the blocks, or in `network` itself.
    """
    sizes: dict[str, tuple[int, ...]] = {}
    blocks = list(_blocks(network))
    handles = [_watch(network.get_submodule(name), name, sizes) for name in blocks]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    keys: list[tuple[int, ...]] = []
    for name in blocks:
        # A block without feature maps, such as a last linear layer, belongs to the stage before it.
        keys.append(sizes.get(name) or (keys[-1] if keys else ()))
    stages = [[name for name, _ in group] for _, group in groupby(zip(blocks, keys, strict=True), key=lambda p: p[1])]
    return stages if len(stages) > 2 else _equal_parts(blocks)


def group_blocks(network: nn.Module, group_of: dict[str, int]) -> list[list[str]]:
    """Returns the stages from the group of each parameter of `network` by its name, counted from the input.

    A parameter beside blocks of different groups, in the module that holds them, is in no stage.
    """
    blocks = list(_blocks_of_one_group(network, group_of))
    stages = [[name for name, of in blocks if of == group] for group in sorted({of for _, of in blocks})]
    if len(stages) <= MOST_STAGES:
        return stages
    return [[name for stage in part for name in stage] for part in _equal_parts(stages)]


def _blocks_of_one_group(module: nn.Module, group_of: dict[str, int], prefix: str = "") -> Iterator[tuple[str, int]]:
    for name, child in module.named_children():
        path = f"{prefix}{name}."
        groups = {group for parameter, group in group_of.items() if parameter.startswith(path)}
        if len(groups) == 1:
            yield path[:-1], groups.pop()
        elif groups:
            yield from _blocks_of_one_group(child, group_of, path)


def _blocks(module: nn.Module, prefix: str = "") -> Iterator[str]:
    whole = _count(module)
    for name, child in module.named_children():
        count = _count(child)
        is_container = type(child) in (nn.Sequential, nn.ModuleList) or count >= CONTAINER * whole
        if count and is_container and any(_count(c) for c in child.children()):
            yield from _blocks(child, f"{prefix}{name}.")
        elif count:
            yield f"{prefix}{name}"


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _watch(module: nn.Module, name: str, sizes: dict[str, tuple[int, ...]]) -> torch.utils.hooks.RemovableHandle:
    def note(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim > 2 and output.shape[-2:].numel() > 1:
            sizes[name] = tuple(output.shape[-2:])

    return module.register_forward_hook(note)


def _equal_parts(blocks: list[T]) -> list[list[T]]:
    bounds = [len(blocks) * part // PARTS for part in range(PARTS + 1)]
    return [blocks[start:stop] for start, stop in pairwise(bounds) if start < stop]


# Weights files, read without running any code in them.

# Under which keys training scripts save a state_dict, averaged weights first.
CONTAINERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model", "net", "teacher"),
    *("student", "backbone", "network", "module"),
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
    """Returns what torch.save wrote to `path`, provided it consists of tensors and plain values.

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
    content = _read_safetensors(path) if path.suffix == ".safetensors" else read_safely(path)
    state = _without_prefixes(_unwrapped(content))
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise HeadstartError(f"{path} is not a state_dict: it must map names to tensors, and hold nothing else")
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise HeadstartError(f"{path} is damaged: its tensor {name} holds NaN or infinite values")
    halves = (torch.float16, torch.bfloat16)
    return {name: tensor.float() if tensor.dtype in halves else tensor for name, tensor in state.items()}


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
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError):
        raise HeadstartError(f"{path} is damaged, or is no safetensors file") from None
    return tensors


def _unwrapped(value: Any) -> Any:
    """Returns the state_dict within what a training script has saved."""
    while isinstance(value, dict) and not all(isinstance(v, Tensor) for v in value.values()):
        inner = next((value[key] for key in CONTAINERS if isinstance(value.get(key), dict)), None)
        if inner is None:
            return value
        value = inner
    return value


def _without_prefixes(state: Any) -> Any:
    """Returns `state` with the names that the network itself gives its tensors."""
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


def file_of(weights: str) -> Path | None:
    """Returns the file that `weights` names; None: it is a name of published weights.

    Raises:
        HeadstartError: it looks like a file, which does not exist.
    """
    path = local(weights)
    if path.exists():
        return path
    if path.suffix or os.sep in weights:
        raise HeadstartError(f"the weights file {weights} does not exist: give another one with model.weights=FILE")
    return None


def fitting_state(module: nn.Module, path: Path, what: str, *, without: str) -> dict[str, Tensor]:
    """Returns the state_dict in the file `path`, except keys that start with `without`.

    `module` may be on the meta device.

    Raises:
        HeadstartError: the file is not a state_dict; or, beginning with `what`, which tensors do not fit.
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


def bundled_weights(arch: str) -> tuple[Path, Preprocessing]:
    """The weights file of `arch`, and the preprocessing it was trained with.

    Raises:
        HeadstartError: there is none, or it does not match its record.
    """
    path = BUNDLED_FOLDER / f"{arch}.pth"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in BUNDLED_FOLDER.glob("*.pth")))
        raise HeadstartError(f"model.weights={BUNDLED} is not available for model.arch={arch}, only for: {names}")
    record = read_json(path.with_suffix(".json"))
    if sha256_of(path) != record["sha256"]:
        raise HeadstartError(f"{path} is damaged: install headstart again")
    return path, Preprocessing(**record["preprocessing"])
