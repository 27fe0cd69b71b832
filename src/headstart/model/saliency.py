"""Which parts of an image speak for a class: class activation maps, or the gradient for networks without feature maps.

Selvaraju et al. 2017, "Grad-CAM".
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2.functional import to_pil_image

from headstart.backbones.backbone import Backbone
from headstart.model.image_classifier import ImageClassifier

# Pixels per side of the cells over which a gradient is averaged.
CELL = 16
# How much of an image shows where its map is 0 and where it is 1, and under which colours.
SHOWN = (0.35, 0.75)
COLD, HOT = np.array((20.0, 30.0, 90.0)), np.array((255.0, 170.0, 0.0))


def saliency_maps(classifier: ImageClassifier, images: Tensor, classes: Tensor) -> Tensor:
    """Maps (N, h, w) from 0 to 1 of what speaks for `classes` (N) in `images` (uint8, N×3×H×W)."""
    backbone, images = classifier.backbone, images.to(classifier.encoder.device)
    # What precedes LogSoftmax, whose gradient vanishes where it is sure.
    scores_of = classifier.head[:-1]
    layer = _last_feature_map(backbone, images[:1])
    with torch.enable_grad(), torch.inference_mode(False):
        if layer is None:
            inputs = images.float().requires_grad_()
            scores = scores_of(backbone.forward(inputs))
            (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), inputs)
            pixels = gradient.abs().sum(1, keepdim=True)
            maps = F.avg_pool2d(pixels, CELL, ceil_mode=True, count_include_pad=False)[:, 0]
        else:
            with _captured(layer) as captured:
                scores = scores_of(backbone.forward(images.clone()))
            (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), captured)
            weights = gradient.mean((2, 3), keepdim=True)
            maps = (weights * captured[0].detach()).sum(1).relu()
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def overlay(seen: Tensor, saliency: Tensor) -> Image.Image:
    """`seen` (uint8, 3×H×W) coloured by its map (h, w) from 0 to 1: dark blue where it is 0, orange where it is 1."""
    plain = to_pil_image(seen)
    small = Image.fromarray((saliency.numpy() * 255).astype(np.uint8))
    heat = np.asarray(small.resize(plain.size, Image.Resampling.BICUBIC), np.float64)[..., None] / 255
    shown = SHOWN[0] + heat * (SHOWN[1] - SHOWN[0])
    colours = COLD + heat * (HOT - COLD)
    return Image.fromarray((shown * np.asarray(plain) + (1 - shown) * colours).astype(np.uint8))


def _last_feature_map(backbone: Backbone, image: Tensor) -> nn.Module | None:
    """The last layer with a feature map (N, C, h, w); None if the network goes on with tokens (N, L, C)."""
    found: list[nn.Module | None] = [None]

    def see(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found[0] = module
        elif isinstance(output, Tensor) and output.ndim == 3:
            found[0] = None

    handles = [module.register_forward_hook(see) for module in backbone.network.modules()]
    try:
        with torch.no_grad():
            backbone.forward(image)
    finally:
        for handle in handles:
            handle.remove()
    return found[0]


@contextmanager
def _captured(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a list for the output of `layer`, from which gradients are computed."""
    captured: list[Tensor] = []

    def capture(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        captured[:] = [output.detach().requires_grad_()]
        # A copy, because the next layer may work in place.
        return captured[0].clone()

    handle = layer.register_forward_hook(capture)
    try:
        yield captured
    finally:
        handle.remove()
