"""predict.py with a checkpoint."""

from pathlib import Path

from PIL import Image
from torchvision.transforms.v2 import functional

from headstart.config.predict import PredictSettings
from headstart.log import log
from headstart.model.image_classifier import overlay
from headstart.predict.predictor import load
from headstart.predict.sources import Prediction
from headstart.predict.write import write

# What the network saw of an image, and beside it what speaks for its class.


GAP = 6  # pixels


def explain(prediction: Prediction) -> Image.Image:
    """What the network saw and, beside it, the same under its map."""
    seen, saliency = prediction.seen, prediction.saliency
    if seen is None or saliency is None:
        raise ValueError("predicted without explain")
    plain = functional.to_pil_image(seen)
    both = Image.new("RGB", (2 * plain.width + GAP, plain.height), "white")
    both.paste(plain, (0, 0))
    both.paste(overlay(seen, saliency), (plain.width + GAP, 0))
    return both


# What predict.py does with a checkpoint.


def predict_with_checkpoint(settings: PredictSettings, paths: list[Path]) -> None:
    """Writes one row per image of `paths`, and scores them if they are labelled.

    Raises:
        HeadstartError: there is no checkpoint, or no image that could be read.
    """
    predictor = load(
        str(settings.ckpt_path),
        accelerator=settings.accelerator,
        precision=settings.features.precision,
        compile=settings.features.compile,
        weights=settings.model.weights,
    )
    if (members := len(predictor.ensemble)) > 1:
        log.info("ensemble of %d classifiers; familiarity and explanations are those of the best one", members)
    labelled = None
    if settings.labelled:
        # Late, because Lightning and Matplotlib, which this alone needs, take seconds to import.
        from headstart.predict.labelled import Labelled, labelled_source

        labelled = Labelled(labelled_source(settings.source), paths, predictor, settings.views)
    predictions = predictor.stream(
        paths,
        topk=len(predictor.classes) if labelled else settings.topk,
        batch_size=settings.data.batch_size,
        num_workers=settings.data.num_workers,
        views=settings.views,
        min_confidence=settings.min_confidence,
        explain=settings.explain,
    )
    depth = predictor.classifier.recipe.preprocessing.depth
    write(map(labelled.add, predictions) if labelled else predictions, settings, paths, predictor.classes, depth)
    if labelled and settings.output is not None:
        from headstart.report.page import accuracy
        from headstart.report.write import write_result

        log.info("%s", accuracy(result := labelled.result()))
        write_result(predictor.classifier, labelled.manifest(), result, Path(settings.output) / "report")
