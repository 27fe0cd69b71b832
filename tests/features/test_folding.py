"""Folding BatchNorm into convolutions changes nothing but the rounding."""

import pytest
import torch
from torch import Tensor, nn

from headstart.backbones.provider import Choice
from headstart.backbones.torchvision import PROVIDER
from headstart.features.compiled import with_folded_batch_norm


class Shared(nn.Module):
    """One convolution before two different BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = self.second(self.conv(self.first(self.conv(images))))
        return result


class Untraceable(Shared):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.sum() > 0 else -images)


class Joined(Shared):
    """What the convolution gives is used twice."""

    def forward(self, images: Tensor) -> Tensor:
        found = self.conv(images)
        result: Tensor = self.first(found) + found
        return result


def trained(network: nn.Module) -> nn.Module:
    """With statistics and scales unlike those of a new one."""
    torch.manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.running_var, module.weight.data, module.bias.data):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return network.eval().requires_grad_(False)


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "densenet121", "efficientnet_b0", "swin_t"])
def test_folded__computes_the_same(arch: str) -> None:
    network = trained(PROVIDER.load(Choice(arch, None), 0).module)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(2, 3, 64, 64)
    expected = network(images)
    folded = with_folded_batch_norm(network)
    torch.testing.assert_close(folded(images), expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)
    torch.testing.assert_close(network(images), expected, rtol=0, atol=0)
    # In a DenseNet, half of them do not follow a convolution.
    assert norms(folded) < norms(network) if arch == "densenet121" else norms(folded) == 0


@torch.no_grad()
def test_folded__what_is_used_elsewhere_stays() -> None:
    network, images = trained(Joined()), torch.rand(2, 3, 4, 4)
    folded = with_folded_batch_norm(network)
    torch.testing.assert_close(folded(images), network(images))
    assert norms(folded) == 1


@pytest.mark.parametrize("kind", [Shared, Untraceable])
def test_what_cannot_be_folded__stays(kind: type[Shared]) -> None:
    network = trained(kind())
    assert with_folded_batch_norm(network) is network
