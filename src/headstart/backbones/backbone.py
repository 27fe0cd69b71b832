"""The frozen network: loaded, identified by its weights' SHA-256, and restored."""

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from headstart.backbones import torchvision
from headstart.backbones.provider import Choice, Network, Provider
from headstart.config.data import PreprocessingSettings
from headstart.config.model import BackboneSettings, has_photo_features
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError
from headstart.log import log

State = Mapping[str, Tensor]  # a state_dict


@dataclass(frozen=True)
class BackboneSource:
    """Names where a backbone comes from; a checkpoint holds this instead of frozen weights.

    `sha256` is of the tensors that are used; `cut` is the name of the layer before which the network was cut;
    `library` is the package that its code was from, and its version.
    """

    arch: str
    weights: str | None
    seed: int
    sha256: str
    cut: str
    pooling: str
    library: str

    def identity(self) -> dict[str, object]:
        """Returns what features depend on: a part of their key."""
        return {
            "arch": self.arch,
            "weights_sha256": self.sha256,
            "cut": self.cut,
            "pooling": self.pooling,
            "library": self.library,
            "has_photo_features": has_photo_features(self.weights),
        }


class Backbone(nn.Module):
    """Maps uint8 images (N, 3, H, W) to float32 features (N, embedding_dim); frozen until `unfreeze` is called.

    Frozen means: no parameter requires a gradient, and the network stays in eval mode whatever `train()` is called, so
    that BatchNorm's statistics do not drift. With `batch_norm=False` they stay fixed in unfrozen stages too, where only
    BatchNorm's scale and shift are trained.

    Args:
        preprocessing: the network's, or what replaces it.
        arch, pooling, seed: by which a checkpoint names the network.
        find_stages: as in headstart.backbones.provider.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: Network,
        preprocessing: Preprocessing,
        arch: str,
        pooling: str,
        seed: int,
        find_stages: Callable[[nn.Module, Tensor], list[list[str]]],
    ) -> None:
        super().__init__()
        self.network = network.module.requires_grad_(False)
        self.embedding_dim = network.embedding_dim
        self.preprocessing = preprocessing
        self.source = BackboneSource(
            arch, network.weights, seed, state_sha256(network.module), network.cut, pooling, network.library
        )
        self.unfrozen = 0  # stages, from the top
        # Of its forward pass, by what an Encoder compiled it for; other Encoders of the same backbone use them.
        self.programs: dict[tuple[int, str, str], Callable[[Tensor], Tensor]] = {}
        self.stays_uncompiled = False
        self._batch_norm = True
        self._find_stages = find_stages
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1), persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        normalized = (images.float() / 255 - self.mean) / self.std
        return self.network(normalized).float()

    @cached_property
    def stages(self) -> list[list[str]]:
        """Returns the names of the network's blocks, stage by stage from the input."""
        size = self.preprocessing.image_size
        return self._find_stages(self.network, torch.zeros(1, 3, size, size, device=self.mean.device))

    def parameters_of(self, stage: int) -> list[nn.Parameter]:
        """Returns those of one stage, counted from the top; what is in no block is of the stage next to the input."""
        parameters = self._parameters_in(self._from_top(stage))
        if stage == len(self.stages) - 1:
            in_blocks = {id(p) for blocks in self.stages for p in self._parameters_in(blocks)}
            parameters += [p for p in self.network.parameters() if id(p) not in in_blocks]
        return parameters

    def _parameters_in(self, blocks: list[str]) -> list[nn.Parameter]:
        return [p for name in blocks for p in self.network.get_submodule(name).parameters()]

    def unfreeze(self, count: int, *, batch_norm: bool) -> None:
        """Makes the top `count` stages trainable, and freezes the others."""
        self.network.requires_grad_(False)
        for stage in range(count):
            for parameter in self.parameters_of(stage):
                parameter.requires_grad_(True)
        self.unfrozen = count
        self._batch_norm = batch_norm

    def state_of(self, count: int) -> set[str]:
        """Returns the names, in `network`, of the parameters and buffers of the top `count` stages."""
        # Finding the stages takes a forward pass, which a backbone that stays frozen can do without.
        if not count:
            return set()
        names = set(self.network.state_dict())
        if count == len(self.stages):
            return names
        blocks = tuple(f"{name}." for stage in range(count) for name in self._from_top(stage))
        return {name for name in names if name.startswith(blocks)}

    def train(self, mode: bool = True) -> "Backbone":
        super().train(False)
        if not mode or not self.unfrozen:
            return self
        if self.unfrozen == len(self.stages):
            self.network.train()
        else:
            for stage in range(self.unfrozen):
                for name in self._from_top(stage):
                    self.network.get_submodule(name).train()
        if not self._batch_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def check_input(self) -> None:
        """Tries one image, for networks that accept only some sizes.

        Raises:
            HeadstartError: the network does not accept images of this size.
        """
        size = self.preprocessing.image_size
        try:
            self(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise HeadstartError(
                f"data.image_size={size} does not suit model.arch={self.source.arch}: {str(error).splitlines()[0]}"
            ) from None

    def _from_top(self, stage: int) -> list[str]:
        return self.stages[len(self.stages) - 1 - stage]


def state_sha256(module: nn.Module) -> str:
    """Returns the SHA-256 of the parameters and persistent buffers of `module` by name, whatever file they are from."""
    return tensors_sha256(module.state_dict())


def tensors_sha256(tensors: State) -> str:
    """Returns the SHA-256 of `tensors`, by name."""
    total = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def overridden(preset: Preprocessing, data: PreprocessingSettings) -> Preprocessing:
    """Returns the preprocessing `preset`, except for what `data` sets.

    Raises:
        HeadstartError: the sizes contradict each other.
    """
    image_size, mode = data.image_size or preset.image_size, data.resize_mode or preset.resize_mode
    resize_size = data.resize_size or _resize_size(preset, image_size, mode)
    if image_size > resize_size:
        raise HeadstartError(
            f"data.image_size={image_size} cannot be cropped from images of data.resize_size={resize_size} pixels"
        )
    mean, std = tuple(data.mean or preset.mean), tuple(data.std or preset.std)
    return Preprocessing(resize_size, image_size, data.interpolation or preset.interpolation, mean, std, mode)


def _resize_size(preset: Preprocessing, image_size: int, mode: str) -> int:
    """Returns the size by which, with another image size alone, the same part is cropped as with the preset."""
    # Who chooses to keep the whole image does not want its border cropped.
    is_whole = mode != "crop" and mode != preset.resize_mode
    return image_size if is_whole else round(preset.resize_size * image_size / preset.image_size)


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
    _provider_of(model.arch).check(_choice(model, data))
    preprocessing_of(model, data)


def preprocessing_of(model: BackboneSettings, data: PreprocessingSettings) -> Preprocessing:
    """Returns the preprocessing of the backbone that `load_backbone` would load.

    Raises:
        HeadstartError: there is no such architecture, or the sizes contradict each other.
    """
    return overridden(_provider_of(model.arch).preset(model.arch, model.weights), data)


def restore_backbone(
    source: BackboneSource, preprocessing: Preprocessing, *, moved_to: str | None, held: State | None = None
) -> Backbone:
    """Returns the backbone that a checkpoint names.

    Its weights are `held`, those in the checkpoint itself, if it is a bundle. Otherwise they come from the file
    `moved_to`, if it is one, or from where they were in training.

    Raises:
        HeadstartError: the weights could not be loaded, or are not those the checkpoint was trained with.
    """
    provider = _provider_of(source.arch)
    if held is not None:
        _check_sha256(tensors_sha256(held), source, "in the bundle")
    choice = _choice_to_restore(source, moved_to, preprocessing.image_size, is_held=held is not None)
    network = provider.load(choice, source.seed)
    if held is not None:
        network = _filled(network, held, source)
    backbone = Backbone(network, preprocessing, source.arch, source.pooling, source.seed, provider.find_stages)
    _check_sha256(backbone.source.sha256, source, network.weights or f"random, from seed {source.seed}")
    return backbone


def check_source(source: BackboneSource, *, moved_to: str | None, is_held: bool = False) -> None:
    """Raises HeadstartError, as `restore_backbone` would, for all that can be known without a download."""
    _provider_of(source.arch).check(_choice_to_restore(source, moved_to, None, is_held=is_held))


def _check_sha256(found: str, source: BackboneSource, origin: str) -> None:
    if found != source.sha256:
        raise HeadstartError(
            f"the backbone's weights ({origin}) are not those of the checkpoint: it was trained with SHA-256 "
            f"{source.sha256[:16]}…, these have {found[:16]}…"
        )


def _filled(network: Network, held: State, source: BackboneSource) -> Network:
    """Returns the network with the weights that a bundle holds, which have the name that they had in training."""
    try:
        network.module.load_state_dict(held)
    except RuntimeError:
        raise HeadstartError(
            f"{network.library} does not build model.arch={source.arch} as {source.library} did, with which it was "
            "trained: install that version"
        ) from None
    return replace(network, weights=source.weights)


def _choice_to_restore(
    source: BackboneSource, moved_to: str | None, image_size: int | None, *, is_held: bool
) -> Choice:
    weights = source.weights if is_held else _weights_to_restore(source, moved_to)
    return Choice(source.arch, weights, source.pooling, image_size, reads_weights=not is_held)


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
