"""What the network looked at when it was wrong."""

import torch
from PIL import Image

from headstart.data.images import read_rgb
from headstart.data.manifest import Manifest
from headstart.data.transforms import EvalTransform
from headstart.errors import UnreadableImage
from headstart.evaluation.result import Result
from headstart.model.image_classifier import ImageClassifier
from headstart.model.saliency import overlay, saliency_maps


def explain_mistakes(
    classifier: ImageClassifier, manifest: Manifest, result: Result, most: int
) -> dict[int, Image.Image]:
    """The `most` most confident mistakes, coloured by what speaks for the predicted class; by their indices.

    Those that can no longer be read are missing.
    """
    transform, seen = EvalTransform(classifier.recipe.preprocessing), {}
    for index in result.mistakes[:most]:
        path = manifest.root / result.predictions.paths[index]
        try:
            seen[index] = transform(read_rgb(path, transform.depth), 0, index)
        except UnreadableImage:
            continue
    if not seen:
        return {}
    images, classes = torch.stack(list(seen.values())), result.predicted[list(seen)]
    maps = saliency_maps(classifier, images, classes.to(classifier.encoder.device)).cpu()
    return {index: overlay(image, found) for (index, image), found in zip(seen.items(), maps, strict=True)}
