"""Any torchvision classification model, frozen and cut before its last layer."""

import difflib
import hashlib
import warnings
from collections.abc import Iterator
from functools import cached_property

import torch
import torchvision
from torch import Tensor, nn

from headstart.data.transforms import Preprocessing
from headstart.errors import HeadstartError
from headstart.model.stages import find_stages

CLASSIFIER_WIDTH = 1000


class Backbone(nn.Module):
    """A feature extractor: uint8 pictures (N, 3, H, W) → float32 features (N, embedding_dim); frozen unless freed.

    Frozen means: no parameter requires a gradient, and it stays in eval mode whatever `train()` is called, so that
    BatchNorm's statistics do not drift. With `batch_norm=False` that layer stays in eval mode where it is freed too:
    its scale and shift are trained, its statistics are not.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, embedding_dim: int, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.embedding_dim = embedding_dim
        self.freed = 0
        self._batch_norm = True
        self._image_size = preprocessing.image_size
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1), persistent=False)
        self.eval()

    @cached_property
    def stages(self) -> list[list[str]]:
        """The names of the network's blocks, stage by stage from the input on."""
        size, device = self._image_size, self.mean.device
        return find_stages(self.network, torch.zeros(1, 3, size, size, device=device))

    def parameters_of(self, stage: int) -> list[nn.Parameter]:
        """Those of one stage, counted from the top. What is in no block belongs to the stage next to the input."""
        found = [p for name in self._from_top(stage) for p in self.network.get_submodule(name).parameters()]
        if stage == len(self.stages) - 1:
            in_blocks = {
                id(p) for stage in self.stages for b in stage for p in self.network.get_submodule(b).parameters()
            }
            found += [p for p in self.network.parameters() if id(p) not in in_blocks]
        return found

    def free(self, count: int, *, batch_norm: bool) -> None:
        """Makes the top `count` stages trainable, and freezes the others."""
        self.network.requires_grad_(False)
        for stage in range(count):
            for parameter in self.parameters_of(stage):
                parameter.requires_grad_(True)
        self.freed = count
        self._batch_norm = batch_norm

    def state_of(self, count: int) -> set[str]:
        """The names, in `network`, of the parameters and buffers of the top `count` stages."""
        # To find the stages takes a forward, which a backbone that stays frozen need not pay.
        if not count:
            return set()
        names = set(self.network.state_dict())
        if count == len(self.stages):
            return names
        blocks = tuple(f"{name}." for stage in range(count) for name in self._from_top(stage))
        return {name for name in names if name.startswith(blocks)}

    def train(self, mode: bool = True) -> "Backbone":
        super().train(False)
        if not mode or not self.freed:
            return self
        if self.freed == len(self.stages):
            self.network.train()
        else:
            for stage in range(self.freed):
                for name in self._from_top(stage):
                    self.network.get_submodule(name).train()
        if not self._batch_norm:
            for module in self.network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _from_top(self, stage: int) -> list[str]:
        return self.stages[len(self.stages) - 1 - stage]

    def forward(self, images: Tensor) -> Tensor:
        normalised = (images.float() / 255 - self.mean) / self.std
        return self.network(normalised).float()

    def check_input(self, image_size: int) -> None:
        """Tries one picture of `image_size` pixels, for networks that take only some sizes.

        Raises:
            HeadstartError: the network does not take that size.
        """
        try:
            self(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
        except (RuntimeError, AssertionError, ValueError) as error:
            raise HeadstartError(
                f"data.image_size={image_size} does not suit this model.arch: {str(error).splitlines()[0]}"
            ) from None


def architectures() -> list[str]:
    """The names that `model.arch` takes."""
    return torchvision.models.list_models(module=torchvision.models)


def check_architecture(arch: str) -> None:
    """Raises HeadstartError, with the nearest name, where torchvision has no classification model `arch`."""
    if arch not in architectures():
        near = difflib.get_close_matches(arch, architectures(), n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "see torchvision's list of classification models"
        raise HeadstartError(f"model.arch={arch} is no classification model of torchvision: {hint}")


def build_network(arch: str, seed: int) -> nn.Module:
    """The whole torchvision model `arch`, last layer included, with random weights that depend on `seed` alone."""
    check_architecture(arch)
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # GoogLeNet and Inception announce a change of their default initialisation.
        warnings.simplefilter("ignore")
        torch.default_generator.manual_seed(seed)
        return torchvision.models.get_model(arch, weights=None)


def cut(network: nn.Module) -> tuple[str, int]:
    """Replaces the last layer of `network` by the identity, in place.

    Returns:
        The name of that layer, and the width of the features that now come out.

    Raises:
        HeadstartError: the network does not end in a Linear or a 1×1 convolution of 1,000 outputs.
    """
    name, width = None, 0
    for candidate, layer in network.named_modules():
        if isinstance(layer, nn.Linear) and layer.out_features == CLASSIFIER_WIDTH:
            name, width = candidate, layer.in_features
        if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.out_channels == CLASSIFIER_WIDTH:
            name, width = candidate, layer.in_channels
    if name is None:
        raise HeadstartError(f"{type(network).__name__} does not end in a Linear or a 1×1 convolution to cut")
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return name, width


def state_sha256(module: nn.Module) -> str:
    """SHA-256 of all parameters and persistent buffers of `module`, by name: the same for every file format."""
    total = hashlib.sha256()
    for name, tensor in _sorted_state(module):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _sorted_state(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from sorted(module.state_dict().items())
