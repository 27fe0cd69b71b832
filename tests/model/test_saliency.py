"""What speaks for a class, against the plain computation and on images with the object in one corner."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
import torchvision
from conftest import SMALL, settings_of
from test_classifier import classifier_of
from torchvision.models import VisionTransformer

from headstart.backbones.backbone import load_backbone
from headstart.model.classifier import Classifier
from headstart.model.image_classifier import overlay, saliency_maps

IMAGES = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def by_differences(classifier: Classifier, image: torch.Tensor, label: int) -> torch.Tensor:
    """Grad-CAM of the last feature map by finite differences, which knows nothing of hooks or gradients."""
    backbone, head = classifier.backbone, copy.deepcopy(classifier.head).double()
    network: Any = backbone.network
    normalized = (image[None].float() / 255 - backbone.mean) / backbone.std
    with torch.no_grad():
        found = network.maxpool(network.conv1(normalized))
        for part in (network.stage2, network.stage3, network.stage4, network.conv5):
            found = part(found)
        features = found.double().mean((2, 3))
        moved = features + 1e-6 * torch.eye(features.shape[1], dtype=torch.double)
        scores = head[:-1](torch.cat([features, moved]))[:, label]
        maps = ((scores[1:] - scores[0])[:, None, None] * found[0]).sum(0).relu()
    return maps / maps.max().clamp(min=1e-12)


def test_saliency__equals_the_plain_computation() -> None:
    classifier = classifier_of().eval()
    labels = torch.tensor([0, 1, 2])
    maps = saliency_maps(classifier, IMAGES, labels)
    assert (maps.amax((1, 2)) == 1).sum() >= 2
    for image, label, found in zip(IMAGES, labels.tolist(), maps, strict=True):
        torch.testing.assert_close(found.double(), by_differences(classifier, image, label), atol=1e-3, rtol=1e-3)


def test_saliency__changes_neither_the_network_nor_its_hooks() -> None:
    classifier = classifier_of().eval()
    before = classifier(IMAGES)
    saliency_maps(classifier, IMAGES, torch.tensor([0, 1, 2]))
    assert torch.equal(classifier(IMAGES), before)
    assert not any(module._forward_hooks for module in classifier.modules())
    assert all(parameter.grad is None for parameter in classifier.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["vit_b_16", "swin_t", "densenet121", "squeezenet1_1", "convnext_tiny", "alexnet"])
def test_saliency__of_every_kind_of_network(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if arch == "vit_b_16":
        # With fewer and narrower layers, it is built in a moment.
        small = partial(VisionTransformer, 224, 16, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=384)
        monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: small())
    settings = settings_of(
        "data.root=x", *SMALL, "logger=none", f"model.arch={arch}", "data.image_size=null", "data.resize_size=null"
    )
    backbone = load_backbone(settings.model, settings.data, seed=0)
    classifier = classifier_of(backbone).eval()
    size = backbone.preprocessing.image_size
    image = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    maps = saliency_maps(classifier, image, torch.tensor([0, 1]))
    assert maps.isfinite().all()
    assert maps.amin() >= 0
    assert maps.amax() == pytest.approx(1) or not maps.any()


def test_overlay__is_dark_blue_where_the_map_is_0_and_orange_where_it_is_1() -> None:
    seen = torch.full((3, 40, 40), 128, dtype=torch.uint8)
    halves = torch.zeros(4, 4)
    halves[:, 2:] = 1
    picture = overlay(seen, halves)
    cold, hot = picture.getpixel((1, 20)), picture.getpixel((38, 20))
    assert isinstance(cold, tuple)
    assert isinstance(hot, tuple)
    assert cold[2] > cold[0]
    assert hot[0] > hot[2]
