"""Any torchvision classification model, frozen and cut before its last layer."""

import difflib
import hashlib
import warnings
from collections.abc import Iterator

import torch
import torchvision
from torch import Tensor, nn

from headstart.data.transforms import Preprocessing
from headstart.errors import HeadstartError

CLASSIFIER_WIDTH = 1000


class Backbone(nn.Module):
    """A frozen feature extractor: uint8 pictures (N, 3, H, W) → float32 features (N, embedding_dim).

    Frozen means: no parameter requires a gradient, the forward runs under `no_grad`, and it stays in eval mode
    whatever `train()` is called, so that BatchNorm's statistics do not drift.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, embedding_dim: int, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.embedding_dim = embedding_dim
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1), persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> "Backbone":
        return super().train(False)

    @torch.no_grad()
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
