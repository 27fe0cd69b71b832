"""What the network looked at when it was wrong."""

import torch
from PIL import Image

from headstart.data.manifest import Manifest
from headstart.data.transforms import EvalTransform
from headstart.evaluation.result import Result
from headstart.model.image_classifier import ImageClassifier
from headstart.model.saliency import overlay, saliency_maps


def explain_mistakes(
    classifier: ImageClassifier, manifest: Manifest, result: Result, most: int
) -> dict[int, Image.Image]:
    """The `most` most confident mistakes, coloured by what speaks for the predicted class; by their indices.

    Those that have changed, or are gone, are missing.
    """
    transform, seen = EvalTransform(classifier.recipe.preprocessing), {}
    for index in result.mistakes[:most]:
        image = manifest.read(result.predictions.paths[index], transform.depth)
        if image is not None:
            seen[index] = transform(image, 0, index)
    if not seen:
        return {}
    images, classes = torch.stack(list(seen.values())), result.predicted[list(seen)]
    maps = saliency_maps(classifier, images, classes.to(classifier.encoder.device)).cpu()
    return {index: overlay(image, found) for (index, image), found in zip(seen.items(), maps, strict=True)}
