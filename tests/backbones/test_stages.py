import pytest
import torch
from torch import nn

from headstart.backbones.provider import find_stages
from headstart.backbones.torchvision import build_classifier, cut


@pytest.mark.parametrize(
    ("arch", "tops"),
    [
        ("resnet18", ["conv1", "layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
        ("mobilenet_v2", ["features.0", "features.2", "features.4", "features.7", "features.14"]),
        ("convnext_tiny", ["features.0", "features.2.1", "features.4.1", "features.6.1"]),
    ],
)
def test_find_stages__by_the_size_of_feature_maps(arch: str, tops: list[str]) -> None:
    module = build_classifier(arch, seed=0)
    cut(module)
    assert [stage[0] for stage in find_stages(module.eval(), torch.zeros(1, 3, 64, 64))] == tops


def test_find_stages__equal_parts_where_all_feature_maps_have_the_same_size() -> None:
    network = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(8)])
    assert find_stages(network, torch.zeros(1, 3, 8, 8)) == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]
