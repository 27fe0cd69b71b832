"""A classifier as the graph that is exported: uint8 images → probabilities and familiarity."""

import copy

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from headstart.model.image_classifier import ImageClassifier
from headstart.model.neighbours import NearestNeighbours

INPUT, OUTPUTS = "images", ("probabilities", "familiarity")


class ExportedClassifier(nn.Module):
    """uint8 images (N, 3, image_size, image_size) → calibrated probabilities (N, classes), familiarity scores (N).

    A copy of `classifier` on the CPU, in eval mode, uncompiled and without autocast. With `half`, the backbone is in
    float16; the normalization of the images and all that follows the features stay in float32.
    """

    def __init__(self, classifier: ImageClassifier, *, half: bool) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier).eval().requires_grad_(False)
        self.classifier.cpu().to(memory_format=torch.contiguous_format)
        head = self.classifier.head
        if isinstance(head[0], NearestNeighbours):
            head[0] = _Neighbours(head[0])
        if half:
            self.classifier.backbone.network = _InHalf(self.classifier.backbone.network)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # Not by way of the encoder, which shares images out among threads.
        features = self.classifier.backbone(images)
        return self.classifier.predict_proba(features), self.classifier.familiarity(features)


class _Neighbours(nn.Module):
    """The head with k as a number: it is the size of a tensor in the graph."""

    def __init__(self, head: NearestNeighbours) -> None:
        super().__init__()
        self._head, self._count = head, int(head.count)

    def forward(self, features: Tensor) -> Tensor:
        return self._head.scores(features, self._count)


class _InHalf(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network.half()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self._network(images.half())
        return features


def trace(classifier: ImageClassifier, *, half: bool) -> ExportedProgram:
    """The graph of a classifier, for batches of any size."""
    size = classifier.recipe.preprocessing.image_size
    # Of two, because a size of one would be taken for a constant.
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    network = ExportedClassifier(classifier, half=half)
    with torch.no_grad():
        return torch.export.export(network, (example,), dynamic_shapes={INPUT: {0: Dim("batch", min=1)}})
