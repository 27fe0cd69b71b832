"""The backbone's weights: bundled, from torchvision by name, from a file, or random by seed; never one for another."""

import os
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.error import URLError
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor

from headstart.data.transforms import Preprocessing
from headstart.errors import HeadstartError
from headstart.files import sha256_of
from headstart.model.backbone import Backbone, build_network, check_architecture, cut, state_sha256
from headstart.model.bundled import BUNDLED, bundled_file

StateDict = dict[str, Tensor]


@dataclass(frozen=True)
class BackboneSource:
    """Where a frozen backbone comes from, as a checkpoint names it instead of holding its weights.

    `sha256` is of the tensors that are used; `cut` is the name of the layer before which the network was cut.
    """

    arch: str
    weights: str | None
    seed: int
    sha256: str
    cut: str

    @property
    def knows_photographs(self) -> bool:
        return knows_photographs(self.weights)


def knows_photographs(weights: str | None) -> bool:
    """Whether alike features mean alike pictures: with random weights all are alike, with the bundled ones a class."""
    return weights not in (None, BUNDLED)


def load_backbone(
    arch: str, weights: str | None, *, seed: int, preprocessing: Preprocessing
) -> tuple[Backbone, BackboneSource]:
    """Builds the backbone `arch` with `weights`: "bundled", a torchvision name, a state_dict file, or None for random.

    Raises:
        HeadstartError: says what cannot be had, or does not fit, and what to do.
    """
    network = build_network(arch, seed)
    classifier, embedding_dim = cut(network)
    if weights is not None:
        state, origin = _read_weights(arch, weights)
        kept = {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}
        _load_into(network, kept, f"model.weights={origin} are not those of model.arch={arch}")
        weights = origin
        if hasattr(network, "transform_input"):
            # GoogLeNet's and Inception's weights come from another library and its normalisation.
            cast(Any, network).transform_input = True
    backbone = Backbone(network, embedding_dim, preprocessing)
    backbone.check_input(preprocessing.image_size)
    return backbone, BackboneSource(arch, weights, seed, state_sha256(network), cut=classifier)


def restore_backbone(source: BackboneSource, *, moved_to: str | None, preprocessing: Preprocessing) -> Backbone:
    """The backbone that a checkpoint names; `moved_to` is where its weights are, should their file be gone.

    Raises:
        HeadstartError: the weights are gone, or are not the ones the checkpoint was trained with.
    """
    is_gone = source.weights is not None and os.sep in source.weights and not Path(source.weights).exists()
    weights = moved_to if is_gone and moved_to is not None else source.weights
    backbone, found = load_backbone(source.arch, weights, seed=source.seed, preprocessing=preprocessing)
    if found.sha256 != source.sha256:
        origin = found.weights or f"random, of seed {source.seed}"
        raise HeadstartError(
            f"the backbone's weights ({origin}) are not those of the checkpoint: it was trained with SHA-256 "
            f"{source.sha256[:16]}…, these have {found.sha256[:16]}…"
        )
    return backbone


def _read_weights(arch: str, weights: str) -> tuple[StateDict, str]:
    """The state_dict, and the name or absolute path it was found under."""
    check_architecture(arch)
    if weights == BUNDLED:
        return read_tensors(bundled_file(arch)), BUNDLED
    names = torchvision.models.get_model_weights(arch)
    if weights in names.__members__:
        return _download(weights, names[weights].url), weights
    path = Path(weights).expanduser()
    if path.exists():
        return read_tensors(path), str(path.resolve())
    if path.suffix or os.sep in weights:
        raise HeadstartError(f"the weights file {weights} does not exist: give another with model.weights=FILE")
    raise HeadstartError(
        f"model.weights={weights} is neither a file nor {BUNDLED} nor torchvision weights of {arch}, "
        f"which are {', '.join(names.__members__)}"
    )


def read_tensors(path: Path) -> StateDict:
    """The state_dict in the file `path`, read with `weights_only=True`: no code in it is run.

    Raises:
        HeadstartError: not a file of tensors by name.
    """
    state = read_safely(path)
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise HeadstartError(f"{path} is not a state_dict: it must hold tensors by name, and nothing else")
    return state


def read_safely(path: Path) -> Any:
    """What torch.save wrote to `path`, as long as it is made of tensors and plain values.

    Raises:
        HeadstartError: the file is missing, damaged, or holds something that could run code.
    """
    if not path.is_file():
        raise HeadstartError(f"{path} does not exist, or is a folder")
    with path.open("rb") as file:
        return _unpickle(file, path)


def _unpickle(file: BinaryIO, path: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise HeadstartError(
                f"{path} is refused: it holds more than tensors and plain values, which could run code"
            ) from None
        # Torch's reader stops at the first thing it does not know, and cannot tell what the rest is.
        raise HeadstartError(
            f"{path} is refused: it was not written by torch.save, is damaged, or could run code"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, OSError):
        raise HeadstartError(f"{path} is damaged, or was not written by torch.save") from None


def _load_into(network: torch.nn.Module, state: StateDict, what: str) -> None:
    expected = network.state_dict()
    # Files from before PyTorch 0.4.1 lack the counters of BatchNorm, which a frozen one never reads.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in expected]
    if missing or extra:
        parts = [
            f"{len(keys)} tensors {verb}, such as {keys[0]}"
            for keys, verb in ((missing, "are missing"), (extra, "have no place"))
            if keys
        ]
        raise HeadstartError(f"{what}: {'; '.join(parts)}")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise HeadstartError(f"{what}: {key} is {tuple(value.shape)}, not {tuple(expected[key].shape)}")
    network.load_state_dict(state, strict=False)


def _download(name: str, url: str) -> StateDict:
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=_hash_prefix(cached))
        except (URLError, OSError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or error
            raise HeadstartError(
                f"the weights {name} could not be downloaded from {url} ({reason}): with a file from elsewhere, "
                f"set model.weights=FILE or put it at {cached}"
            ) from None
    _check_hash(cached)
    return read_tensors(cached)


def _hash_prefix(path: Path) -> str | None:
    match = re.search(r"-([0-9a-f]{8,})\.", path.name)
    return match.group(1) if match else None


def _check_hash(path: Path) -> None:
    """torch.hub checks a download once; what has lain on the disk since is checked here."""
    expected = _hash_prefix(path)
    found = sha256_of(path)
    if expected and not found.startswith(expected):
        raise HeadstartError(
            f"{path} is damaged: its SHA-256 begins with {found[:8]}, its name says {expected}; delete it and run again"
        )
