"""Loads a backbone: a provider's network with its weights, and the preprocessing that belongs to them."""

import os
from pathlib import Path

from headstart.backbones import torchvision
from headstart.backbones.backbone import Backbone, BackboneSource, overridden
from headstart.backbones.provider import Choice, Provider
from headstart.config.data import PreprocessingSettings
from headstart.config.model import BackboneSettings
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError
from headstart.log import log

TIMM = "timm/"  # the prefix of its models in `model.arch`


def load_backbone(model: BackboneSettings, data: PreprocessingSettings, *, seed: int) -> Backbone:
    """Loads the backbone that `model` describes.

    `data` may override the preprocessing that belongs to the weights; `seed` is of random weights. The trials of a
    sweep share a backbone if all of these are the same, so it must not depend on anything else.

    Raises:
        HeadstartError: the weights could not be loaded, or do not fit.
    """
    provider = _provider_of(model.arch)
    network = provider.load(_choice(model, data), seed)
    preprocessing = overridden(network.preset, data)
    if network.guess is not None and None in (data.resize_size, data.image_size, data.interpolation):
        log.info(
            "%s: using the preprocessing of %s (resize %d, crop %d, %s); data.resize_size, … change it",
            *(model.weights, network.guess),
            *(preprocessing.resize_size, preprocessing.image_size, preprocessing.interpolation),
        )
    backbone = Backbone(network, preprocessing, model.arch, model.pooling, seed, provider.find_stages)
    backbone.check_input()
    return backbone


def check_backbone(model: BackboneSettings, data: PreprocessingSettings) -> None:
    """Raises HeadstartError, as `load_backbone` would, for all that can be known without a download."""
    provider = _provider_of(model.arch)
    provider.check(_choice(model, data))
    overridden(provider.preset(model.arch, model.weights), data)


def preprocessing_of(model: BackboneSettings, data: PreprocessingSettings) -> Preprocessing:
    """The preprocessing of the backbone that `load_backbone` would load.

    Raises:
        HeadstartError: there is no such architecture, or the sizes contradict each other.
    """
    return overridden(_provider_of(model.arch).preset(model.arch, model.weights), data)


def restore_backbone(source: BackboneSource, preprocessing: Preprocessing, *, moved_to: str | None) -> Backbone:
    """The backbone that a checkpoint names; if `moved_to` is a file, its weights come from there.

    Raises:
        HeadstartError: the weights could not be loaded, or are not those the checkpoint was trained with.
    """
    provider = _provider_of(source.arch)
    choice = Choice(source.arch, _weights_to_restore(source, moved_to), source.pooling, preprocessing.image_size)
    network = provider.load(choice, source.seed)
    backbone = Backbone(network, preprocessing, source.arch, source.pooling, source.seed, provider.find_stages)
    found = backbone.source
    if found.sha256 != source.sha256:
        origin = found.weights or f"random, from seed {source.seed}"
        raise HeadstartError(
            f"the backbone's weights ({origin}) are not those of the checkpoint: it was trained with SHA-256 "
            f"{source.sha256[:16]}…, these have {found.sha256[:16]}…"
        )
    return backbone


def check_source(source: BackboneSource, *, moved_to: str | None) -> None:
    """Raises HeadstartError, as `restore_backbone` would, for all that can be known without a download."""
    choice = Choice(source.arch, _weights_to_restore(source, moved_to), source.pooling)
    _provider_of(source.arch).check(choice)


def _weights_to_restore(source: BackboneSource, moved_to: str | None) -> str | None:
    if moved_to is None:
        return source.weights
    # A name may merely be the default of model.weights.
    is_file = os.sep in moved_to or Path(moved_to).suffix != "" or Path(moved_to).is_file()
    is_gone = source.weights is not None and os.sep in source.weights and not Path(source.weights).exists()
    return moved_to if is_file or is_gone else source.weights


def _provider_of(arch: str) -> Provider:
    if not arch.startswith(TIMM):
        return torchvision.PROVIDER
    try:
        # An extra, which takes a second to import.
        from headstart.backbones import timm
    except ModuleNotFoundError:
        raise HeadstartError(
            f'model.arch={arch} needs an extra that is not installed: python -m pip install -e ".[timm]"'
        ) from None
    return timm.PROVIDER


def _choice(model: BackboneSettings, data: PreprocessingSettings) -> Choice:
    return Choice(model.arch, model.weights, model.pooling, data.image_size)
