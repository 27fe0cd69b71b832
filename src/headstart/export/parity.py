"""How far a model file is from the checkpoint that it was exported from."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from headstart.data.transforms import EvalTransform
from headstart.export.model_file import Array, ModelFile, prepared, run
from headstart.export.samples import Samples
from headstart.features.encoder import Encoder
from headstart.model.image_classifier import ImageClassifier

BATCH = 8


@dataclass(frozen=True)
class Difference:
    """The largest difference of a probability, and of a familiarity score, on `images` images, which `of` describes.

    `agreement` is the share of the images whose first class is the same.
    """

    images: int
    of: str
    probability: float
    familiarity: float
    agreement: float

    def is_within(self, tolerance: float) -> bool:
        """Whether both are at most `tolerance`, which NaN is not."""
        return self.probability <= tolerance and self.familiarity <= tolerance


def compare(model: ModelFile, classifier: ImageClassifier, samples: Samples) -> Difference:
    """What `model` makes of the images, against `classifier` in float32 on the CPU, uncompiled."""
    classifier, images = copy.deepcopy(classifier).cpu(), samples.images
    encoder = Encoder(classifier.backbone, precision="32", compile=False)
    outputs = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        found = run(model, [prepared(image, model.info) for image in batch])
        outputs.append((*found, *_expected(classifier, encoder, batch)))
    probabilities, scores, expected, expected_scores = map(np.concatenate, zip(*outputs, strict=True))
    return Difference(
        len(images),
        samples.of,
        # Of NaN, these are NaN.
        probability=float(np.abs(probabilities - expected).max()),
        familiarity=float(np.abs(scores - expected_scores).max()),
        agreement=float((probabilities.argmax(1) == expected.argmax(1)).mean()),
    )


def _expected(classifier: ImageClassifier, encoder: Encoder, images: Sequence[Image.Image]) -> tuple[Array, Array]:
    transform = EvalTransform(classifier.recipe.preprocessing)
    with torch.inference_mode():
        features = encoder(torch.stack([transform(image, 0, 0) for image in images]))
        return classifier.predict_proba(features).numpy(), classifier.familiarity(features).numpy()
