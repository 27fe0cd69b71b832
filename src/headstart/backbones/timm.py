"""Loads timm's backbones: `model.arch=timm/NAME`, `timm/NAME.TAG`, `timm/local-dir:FOLDER` or `timm/hf-hub:ID`."""

import logging
import math
import os
import re
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from textwrap import shorten
from typing import Any, cast
from urllib.parse import urlsplit
from urllib.request import getproxies

import timm
import torch
from huggingface_hub import constants
from timm.data import resolve_data_config
from torch import Tensor, nn
from torch.nn.modules.module import _IncompatibleKeys

from headstart.backbones.provider import (
    Choice,
    Network,
    Provider,
    TokenPooling,
    bundled_weights,
    cannot_pool,
    file_of,
    group_blocks,
    read_tensors,
)
from headstart.backbones.provider import find_stages as stages_by_size
from headstart.config.checks import similar
from headstart.config.model import BUNDLED, DEFAULT
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError, listed
from headstart.text import named

PREFIX = "timm/"
# Before a folder or a repository, which hold a model's configuration beside its weights.
LOCAL, REMOTE = "local-dir:", "hf-hub:"
LIBRARY = f"timm {timm.__version__}"
# timm's names of what becomes of images that are not square.
RESIZE_MODES = {"center": "crop", "squash": "squash"}


def load(choice: Choice, seed: int) -> Network:
    """Returns the model without its classifier, with random weights from `seed` if there are no others.

    Raises:
        HeadstartError: there is no such model, its weights could not be loaded, or it rejects the image size.
    """
    choice = _buildable(choice)
    preprocessing = preset(choice.arch, choice.weights)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        module = _pooled(_build(choice, downloads=choice.reads_weights), choice).eval()
    width = _width(module, choice.image_size or preprocessing.image_size, choice)
    origin, guess = choice.weights, None
    if choice.weights is not None:
        config = _config(choice.arch, choice.weights)
        file = file_of(choice.weights)
        origin = named(str(file.resolve())) if file else config.get("tag") or DEFAULT
        guess = f"timm's {_name(choice.arch, choice.weights)}" if file else None
    return Network(module, width, "classifier", origin, LIBRARY, preprocessing, guess)


def check(choice: Choice) -> None:
    """Raises HeadstartError if `load` would fail, apart from what only a download can show."""
    choice = _buildable(choice)
    preset(choice.arch, choice.weights)
    has_file = choice.weights is not None and file_of(choice.weights) is not None
    if has_file or choice.pooling != "default" or choice.image_size is not None:
        # Without memory for its tensors, it takes little time to build.
        with torch.device("meta"):
            _pooled(_build(choice, downloads=False), choice)


def preset(arch: str, weights: str | None) -> Preprocessing:
    """Returns the preprocessing that belongs to `weights`; for a file or None, that of the architecture's default ones.

    Raises:
        HeadstartError: there is no such architecture, no such weights, or headstart does not have their preprocessing.
    """
    values = resolve_data_config({}, pretrained_cfg=_config(arch, weights))
    channels, height, width = values["input_size"]
    mode = RESIZE_MODES.get(values["crop_mode"])
    if channels != 3 or height != width or mode is None:
        raise HeadstartError(
            f"model.arch={arch} is not supported: it takes images of {channels}×{height}×{width} pixels, "
            f"with the crop mode {values['crop_mode']}"
        )
    return Preprocessing(
        resize_size=math.floor(height / values["crop_pct"]),
        image_size=height,
        interpolation=values["interpolation"],
        mean=values["mean"],
        std=values["std"],
        resize_mode=mode,
    )


def find_stages(module: nn.Module, images: Tensor) -> list[list[str]]:
    """Returns the blocks by timm's own grouping of the parameters or, if there is none, by the size of their maps."""
    is_wrapped = isinstance(module, TokenPooling)
    model: Any = module.model if is_wrapped else module
    if not hasattr(model, "group_matcher"):
        return stages_by_size(module, images)
    groups = timm.models.group_parameters(model, model.group_matcher(coarse=True))
    prefix = "model." if is_wrapped else ""
    return group_blocks(module, {f"{prefix}{name}": group for group, names in groups.items() for name in names})


PROVIDER = Provider(check, preset, load, find_stages)


def _buildable(choice: Choice) -> Choice:
    """Returns the choice without a weights file that need not be read.

    Raises:
        HeadstartError: the weights need not be read, but the architecture would have to be, from beside them.
    """
    if choice.reads_weights:
        return choice
    if choice.arch.removeprefix(PREFIX).startswith((LOCAL, REMOTE)):
        raise HeadstartError(
            f"model.arch={choice.arch} is described by a file beside its weights, so it cannot be built from a bundle"
        )
    return replace(choice, weights=None) if os.sep in str(choice.weights) else choice


def _name(arch: str, weights: str | None) -> str:
    """Returns what timm calls the model, with a tag if that of the weights is given."""
    name = arch.removeprefix(PREFIX)
    if weights in (None, DEFAULT) or name.startswith((LOCAL, REMOTE)) or file_of(str(weights)):
        return name
    if weights == BUNDLED:
        bundled_weights(arch)
    base, _, tag = name.partition(".")
    if tag not in ("", weights):
        raise HeadstartError(f"model.arch={arch} names its weights: model.weights={weights} contradicts it")
    return f"{base}.{weights}"


def _similar(name: str) -> list[str]:
    """Returns up to three of timm's models: those of the family of `name`, or of which it is a typo."""
    parts = re.split(r"[^a-z0-9]+", name.lower())
    shared = {model: sum(part in model for part in parts if len(part) > 2) for model in timm.list_models()}
    family = [model for model in shared if parts[0] in model and len(parts[0]) > 2]
    ranked = sorted(family, key=lambda model: (-shared[model], len(model)))
    return ranked[:3] or similar(name, timm.list_models(), most=3)


def _config(arch: str, weights: str | None) -> dict[str, Any]:
    """Returns timm's configuration of the weights; for a file or None, of the default ones.

    Raises:
        HeadstartError: there is no such architecture, or no such weights.
    """
    name = _name(arch, weights)
    if name.startswith((LOCAL, REMOTE)):
        return _config_of_source(arch, name)
    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        near = _similar(base)
        hint = f"did you mean {' or '.join(PREFIX + other for other in near)}?" if near else "see timm.list_models()"
        raise HeadstartError(f"model.arch={arch} is not a timm model: {hint}")
    published = [model.partition(".")[2] for model in timm.list_pretrained(f"{base}*") if model.split(".")[0] == base]
    if tag and tag not in published:
        raise HeadstartError(f"timm has no weights {tag} for {base}, only: {listed(published) or 'none'}")
    if not published and weights is not None and not file_of(weights):
        raise HeadstartError(f"timm has no weights for model.arch={arch}: set model.weights=FILE, or null for random")
    config = timm.get_pretrained_cfg(name)
    return config.to_dict() if config is not None else {}


def _config_of_source(arch: str, name: str) -> dict[str, Any]:
    """Returns the configuration in the folder or the repository, which is downloaded."""
    try:
        with torch.device("meta"), _no_retries_without_network():
            config: dict[str, Any] = timm.create_model(name, pretrained=False).pretrained_cfg
    except Exception as error:
        raise HeadstartError(f"model.arch={arch} could not be loaded: {_reason(error)}") from None
    return config


def _build(choice: Choice, *, downloads: bool = True) -> nn.Module:
    """Returns the model without its classifier; without `downloads`, published weights stay random."""
    arch, weights = choice.arch, choice.weights
    name, options = _name(arch, weights), _size_option(choice)
    file = file_of(weights) if weights is not None else None
    if file is not None:
        # Unlike `checkpoint_path`, it goes through the model's own conversion of other formats.
        options["pretrained_cfg_overlay"] = {"state_dict": read_tensors(file), "custom_load": False}
    is_download = file is None and not name.startswith(LOCAL)
    what = f"model.weights={weights} does not fit model.arch={arch}"
    if is_download:
        what = f"the weights of model.arch={arch} could not be downloaded; if you have them, set model.weights=FILE"
    try:
        with _loaded() as results, _no_retries_without_network(), warnings.catch_warnings():
            # What they announce concerns their developers, and each retry of a download.
            warnings.simplefilter("ignore")
            logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
            wanted = weights is not None and (downloads or not is_download)
            model: nn.Module = timm.create_model(name, pretrained=wanted, num_classes=0, **options)
    except Exception as error:
        if "img_size" in options and weights is None:
            raise _rejected_size(choice.image_size, arch, error) from None
        raise HeadstartError(f"{what}: {_reason(error)}") from None
    if file is not None:
        # It would stay in memory, and be copied with the model.
        cast(Any, model).pretrained_cfg.pop("state_dict", None)
    _check_complete(model, results.get(id(model)), what, is_file=file is not None)
    return model


@contextmanager
def _no_retries_without_network() -> Iterator[None]:
    """Uses only what is cached where the server's name cannot be resolved: retries would take a minute."""
    before = constants.HF_HUB_OFFLINE
    try:
        if not getproxies():
            socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, None)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _size_option(choice: Choice) -> dict[str, Any]:
    """Returns the option that models have for the image size if their weights depend on it."""
    config = _config(choice.arch, choice.weights)
    size = choice.image_size
    return {"img_size": size} if size not in (None, config["input_size"][-1]) and config["fixed_input_size"] else {}


@contextmanager
def _loaded() -> Iterator[dict[int, _IncompatibleKeys]]:
    """Yields what `load_state_dict` returns in the block, by the module's id.

    PyTorch's method is replaced because timm has no way to ask: it only logs which tensors are missing.
    """
    results: dict[int, _IncompatibleKeys] = {}
    original = nn.Module.load_state_dict

    def load_state_dict(module: nn.Module, *arguments: Any, **keywords: Any) -> _IncompatibleKeys:
        results[id(module)] = original(module, *arguments, **keywords)
        return results[id(module)]

    nn.Module.load_state_dict = load_state_dict  # type: ignore[method-assign, assignment]
    try:
        yield results
    finally:
        nn.Module.load_state_dict = original  # type: ignore[method-assign]


def _check_complete(model: Any, keys_of: _IncompatibleKeys | None, what: str, *, is_file: bool) -> None:
    """Raises HeadstartError if weights are missing or, in a file, are left over apart from the classifier's."""
    if keys_of is None:
        return
    classifiers = model.pretrained_cfg.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    extra = [key for key in keys_of.unexpected_keys if not key.startswith(tuple(f"{name}." for name in classifiers))]
    for keys, kind in ((keys_of.missing_keys, "missing"), (extra if is_file else [], "unexpected")):
        if keys:
            raise HeadstartError(f"{what}: {len(keys)} {kind} tensors, such as {keys[0]}")


def _pooled(model: Any, choice: Choice) -> nn.Module:
    """Returns the model with `choice.pooling`."""
    pooling, prefix = choice.pooling, getattr(model, "num_prefix_tokens", None)
    own = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    is_average = getattr(own, "pool_type", own) == "avg"
    if pooling == "default" or (prefix is None and pooling == "avg" and is_average):
        return model
    if "cls" in pooling and (prefix is None or getattr(model, "cls_token", None) is None):
        raise cannot_pool(pooling, choice.arch, "it has no class token")
    if prefix is None:
        raise cannot_pool(pooling, choice.arch, "its own pooling is another one, which its weights were trained with")
    return TokenPooling(model, pooling, tokens=_tokens, prefix=prefix, after=getattr(model, "fc_norm", None))


def _tokens(model: nn.Module, images: Tensor) -> Tensor:
    return cast(Tensor, model.forward_features(images))  # type: ignore[operator]


def _width(module: nn.Module, size: int, choice: Choice) -> int:
    """Returns the width of the features; `num_features` is that before layers that some have behind the pooling."""
    try:
        with torch.no_grad():
            return int(module(torch.zeros(1, 3, size, size)).shape[1])
    except Exception as error:
        raise _rejected_size(size, choice.arch, error) from None


def _rejected_size(size: int | None, arch: str, error: Exception) -> HeadstartError:
    return HeadstartError(f"data.image_size={size} does not suit model.arch={arch}: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Returns the first line of the message that says something."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("Error(s) in loading")]
    return shorten(said[0], width=300) if said else type(error).__name__
