"""Torchvision's classification models as backbones, cut before their last layer."""

import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError
from urllib.parse import urlparse

import torch
import torchvision
from torch import Tensor, nn

from headstart.backbones.provider import (
    Choice,
    Network,
    Provider,
    TokenPooling,
    bundled_weights,
    cannot_pool,
    file_of,
    find_stages,
    fitting_state,
)
from headstart.config.checks import family_in_timm, similar
from headstart.config.model import BUNDLED, DEFAULT
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError, listed
from headstart.files import sha256_of
from headstart.text import named

CLASSIFIER_WIDTH = 1000
LIBRARY = f"torchvision {torchvision.__version__}"


def load(choice: Choice, seed: int) -> Network:
    """Returns the model without its last layer, with random weights from `seed` if there are no others.

    Raises:
        HeadstartError: there is no such model, or its weights could not be loaded.
    """
    check_architecture(choice.arch)
    arch, weights = choice.arch, _named(choice.arch, choice.weights)
    module = build_classifier(arch, seed)
    name, width = cut(module)
    path, origin, guess = None, weights, None
    if weights == BUNDLED and choice.reads_weights:
        path, preprocessing = bundled_weights(arch)
    else:
        preprocessing, guess = _published_preset(arch, weights)
        if weights is not None and choice.reads_weights:
            path, origin = _find_file(arch, weights)
    if path is not None:
        misfit = f"model.weights={origin} does not fit model.arch={arch}"
        module.load_state_dict(fitting_state(module, path, misfit, without=f"{name}."), strict=False)
    if weights is not None and hasattr(module, "transform_input"):
        # GoogLeNet's and Inception's weights come from another library and expect its normalization.
        cast(Any, module).transform_input = True
    pooled, width = _pooled(module, width, choice)
    return Network(pooled, width, name, origin, LIBRARY, preprocessing, guess)


def check(choice: Choice) -> None:
    """Raises HeadstartError if `load` would fail, apart from what only a download can show."""
    check_architecture(choice.arch)
    weights = _named(choice.arch, choice.weights)
    # Without memory for its tensors, the network takes little time to build; loading them does nothing but warn.
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(replace(choice, weights=None if weights in _names(choice.arch) else weights), seed=0)


def preset(arch: str, weights: str | None) -> Preprocessing:
    """Returns the preprocessing that belongs to `weights`; for a file or None, that of the first published ones.

    Raises:
        HeadstartError: there is no such architecture.
    """
    check_architecture(arch)
    return bundled_weights(arch)[1] if weights == BUNDLED else _published_preset(arch, _named(arch, weights))[0]


PROVIDER = Provider(check, preset, load, find_stages)


def architectures() -> list[str]:
    """Returns the names that `model.arch` accepts."""
    return torchvision.models.list_models(module=torchvision.models)


def check_architecture(arch: str) -> None:
    """Raises HeadstartError, with the nearest names, if torchvision has no classification model `arch`."""
    if arch not in architectures():
        near = similar(arch, architectures(), most=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see torchvision's list of classification models"
        if family := family_in_timm(arch):
            hint = f"timm has this family, such as model.arch={family}"
        raise HeadstartError(
            f"model.arch={arch} is not a torchvision classification model: {hint} (timm's models are timm/NAME)"
        )


def build_classifier(arch: str, seed: int) -> nn.Module:
    """Returns the whole model `arch`, last layer included, with random weights that depend only on `seed`."""
    check_architecture(arch)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # GoogLeNet and Inception announce a change of their default initialization.
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(seed)
        return torchvision.models.get_model(arch, weights=None)


def cut(module: nn.Module) -> tuple[str, int]:
    """Replaces the last layer of `module` by the identity, in place.

    Returns:
        The name of that layer, and the width of the features that now come out.

    Raises:
        HeadstartError: the model does not end in a Linear or a 1×1 convolution with 1,000 outputs.
    """
    name, width = None, 0
    for candidate, layer in module.named_modules():
        if isinstance(layer, nn.Linear) and layer.out_features == CLASSIFIER_WIDTH:
            name, width = candidate, layer.in_features
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.out_channels == CLASSIFIER_WIDTH:
            name, width = candidate, layer.in_channels
    if name is None:
        raise HeadstartError(f"{type(module).__name__} does not end in a Linear or a 1×1 convolution that can be cut")
    parent, _, attribute = name.rpartition(".")
    setattr(module.get_submodule(parent), attribute, nn.Identity())
    return name, width


def _pooled(module: nn.Module, width: int, choice: Choice) -> tuple[nn.Module, int]:
    """Returns `module` with `choice.pooling`, and the width of its features."""
    if choice.pooling == "default":
        return module, width
    if isinstance(module, torchvision.models.VisionTransformer):
        # Its own features are the class token.
        pooled = TokenPooling(module, choice.pooling, tokens=_tokens, prefix=1)
        return pooled, width * len(pooled.parts)
    pools = any(isinstance(part, nn.AdaptiveAvgPool2d) for part in module.modules())
    if choice.pooling == "avg" and pools:
        return module, width
    raise cannot_pool(choice.pooling, choice.arch, "it has no class token" if pools else "it has no average pooling")


def _tokens(module: nn.Module, images: Tensor) -> Tensor:
    """Returns a vision transformer's tokens (N, T, d) as its `forward`, which keeps only the first, computes them."""
    model: Any = module
    # Private: torchvision has no public function for the tokens.
    patches = model._process_input(images)
    return cast(Tensor, model.encoder(torch.cat([model.class_token.expand(len(images), -1, -1), patches], dim=1)))


def _published_preset(arch: str, weights: str | None) -> tuple[Preprocessing, str | None]:
    """Returns that of the published weights of this name, or of the first ones, which are named if it is a file."""
    is_published = weights in _names(arch)
    entry = torchvision.models.get_model_weights(arch)[weights if is_published else _names(arch)[0]]
    transform = entry.transforms()
    sizes = transform.resize_size[0], transform.crop_size[0]
    preset = Preprocessing(*sizes, transform.interpolation.value, tuple(transform.mean), tuple(transform.std))
    return preset, None if weights is None or is_published else str(entry)


def _named(arch: str, weights: str | None) -> str | None:
    """Returns the name for which "default" stands."""
    return _names(arch)[0] if weights == DEFAULT else weights


def _names(arch: str) -> list[str]:
    """Returns the names of torchvision's weights for `arch`."""
    return list(torchvision.models.get_model_weights(arch).__members__)


def _find_file(arch: str, weights: str) -> tuple[Path, str]:
    """Returns the file, downloaded if necessary, and the name, the absolute path or the URL that identifies it."""
    if weights in _names(arch):
        return _download(weights, torchvision.models.get_model_weights(arch)[weights].url), weights
    if (path := file_of(weights)) is not None:
        return path, named(str(path.resolve()))
    raise HeadstartError(
        f"model.weights={weights} is neither a file nor {BUNDLED} nor the name of torchvision weights for {arch}: "
        f"{listed(_names(arch))}"
    )


def _download(name: str, url: str) -> Path:
    """Returns the file at `url`, downloaded once, and verified whenever it is used."""
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(cached), hash_prefix=_hash_prefix(cached))
        except (URLError, OSError, RuntimeError) as error:
            reason = getattr(error, "reason", None) or error
            raise HeadstartError(
                f"the weights {name} could not be downloaded from {url} ({reason}): if you have the file, "
                f"set model.weights=FILE or put it at {cached}"
            ) from None
    # torch.hub checks a download once; the file may have been damaged since.
    expected, actual = _hash_prefix(cached), sha256_of(cached)
    if expected and not actual.startswith(expected):
        raise HeadstartError(
            f"{cached} is damaged: its SHA-256 starts with {actual[:8]} instead of {expected}; delete it and run again"
        )
    return cached


def _hash_prefix(path: Path) -> str | None:
    match = re.search(r"-([0-9a-f]{8,})\.", path.name)
    return match.group(1) if match else None
