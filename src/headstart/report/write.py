"""Writes the report's files, and what TensorBoard shows of them."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.v2.functional import to_dtype, to_image

from headstart.data.manifest import Manifest
from headstart.data.transforms import EvalTransform
from headstart.data.workers import thread_map
from headstart.evaluation.answers import FromFeatures, ask_features, describe_head, score
from headstart.evaluation.predictions import Averaging, Predictions
from headstart.evaluation.probes import Array
from headstart.evaluation.result import Result
from headstart.files import REPORT, claim, remove, write_csv, write_json, write_text
from headstart.log import is_first_process, log, shown
from headstart.model.image_classifier import ImageClassifier
from headstart.model.saliency import overlay, saliency_maps
from headstart.report.charts import (
    draw_accuracy,
    draw_confusion,
    draw_curves,
    draw_learning_curve,
    draw_map,
    draw_reliability,
)
from headstart.report.page import MISTAKES, Page
from headstart.run_folder import RunFolder
from headstart.text import on_one_line
from headstart.training.fit import Fitted

# The report's charts and a map of the features in TensorBoard.


# Of the projector.
MOST_IMAGES, SIDE = 400, 40  # pixels
HEADER = ["class", "prediction", "path"]


def add_to_tensorboard(
    run: RunFolder, charts: Mapping[str, Path], manifest: Manifest, result: Result, found: FromFeatures | None
) -> None:
    """Writes the charts as images and, if there are features, those of scored images for the projector.

    They are a TensorBoard run of their own, in the folder of the report. Nothing is written if the training did not log
    to TensorBoard.
    """
    for earlier in run.report.glob("events.out.tfevents.*"):
        remove(earlier)
    if not any(run.path.glob("events.out.tfevents.*")):
        return
    with SummaryWriter(str(run.report)) as writer:
        for name, path in charts.items():
            with Image.open(path) as chart:
                writer.add_image(name, np.asarray(chart.convert("RGB")), dataformats="HWC")
        if found is not None:
            # TensorBoard's name for what it is about to write.
            remove(run.report / "00000")
            writer.add_embedding(*_to_project(manifest, result, found.features), tag="features", metadata_header=HEADER)


def _to_project(manifest: Manifest, result: Result, features: Array) -> tuple[Array, list[list[str]], Tensor]:
    """Features (N, d), labels, and thumbnails (N, 3, SIDE, SIDE) from 0 to 1 of the images that can be read."""
    paths, labels = result.predictions.paths, result.predictions.labels.tolist()
    # Spread over the split, which is sorted by class.
    shown = np.unique(np.linspace(0, len(paths) - 1, min(MOST_IMAGES, len(paths))).astype(int)).tolist()
    images = thread_map(lambda index: _thumbnail(manifest, paths[index]), shown)
    rows = [(index, image) for index, image in zip(shown, images, strict=True) if image is not None]
    kept = [index for index, _ in rows]
    names = [[result.classes[labels[i]], result.classes[int(result.predicted[i])], paths[i]] for i in kept]
    cells = [[on_one_line(cell).encode("utf-8", "replace").decode() for cell in row] for row in names]
    return features[kept].astype(np.float32), cells, torch.stack([image for _, image in rows])


def _thumbnail(manifest: Manifest, path: str) -> Tensor | None:
    if (image := manifest.read(path, manifest.depth)) is None:
        return None
    return to_dtype(to_image(ImageOps.pad(image, (SIDE, SIDE))), torch.float32, scale=True)


# What the network looked at when it was wrong.


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


# report/: the page, its charts as PNG, and its numbers as JSON and CSV.


BATCH = 16  # samples of the first training batch


def write_report(
    fitted: Fitted, predictions: dict[str, Predictions], run: RunFolder, averaging: Averaging | None
) -> None:
    """Answers what a user asks after a training, in the folder `run.report`.

    `predictions` are of the valid split and, if there is one, of the test split; `averaging` is of the views that they
    may be averaged over.
    """
    classifier, manifest = fitted.classifier, fitted.data.manifest
    # Encoded by all processes together.
    features = fitted.data.unaugmented_features() if fitted.data.has_frozen_features else None
    if not is_first_process():
        return
    claim(run.report, REPORT)
    result, found = score(manifest, predictions), None
    if features is not None:
        head = describe_head(classifier, predictions["valid"])
        found = ask_features(manifest, features, result, head, classifier.recipe.seed)
    draw_curves(fitted.history, fitted.best_epoch, run.curves)
    charts = {"curves": run.curves} | _draw(manifest, result, found, run.report)
    recipe, batch = classifier.recipe, fitted.data.first_samples(BATCH)
    explained = explain_mistakes(classifier, manifest, result, MISTAKES)
    page = Page(manifest, recipe, result, found, charts, explained, batch, fitted.data.augmentation, averaging)
    _write(page, run.report)
    add_to_tensorboard(run, charts, manifest, result, found)


def write_result(classifier: ImageClassifier, manifest: Manifest, result: Result, folder: Path) -> None:
    """The part of a report that takes nothing but predictions, in `folder`."""
    claim(folder, REPORT)
    charts = _draw(manifest, result, None, folder)
    explained = explain_mistakes(classifier, manifest, result, MISTAKES)
    _write(Page(manifest, classifier.recipe, result, None, charts, explained), folder)


def _draw(manifest: Manifest, result: Result, found: FromFeatures | None, folder: Path) -> dict[str, Path]:
    """Draws the charts, and returns their files by their names."""
    charts = {name: folder / f"{name}.png" for name in ("accuracy", "confusion", "reliability")}
    draw_accuracy(result, found, charts["accuracy"])
    draw_confusion(result, charts["confusion"])
    draw_reliability(result, charts["reliability"])
    if found is not None:
        charts["map"] = folder / "map.png"
        draw_map(result, found.places, charts["map"])
    if found is not None and found.curve is not None:
        charts["learning_curve"] = folder / "learning_curve.png"
        draw_learning_curve(found.curve, manifest.classes, charts["learning_curve"])
    return charts


def _write(page: Page, folder: Path) -> None:
    _write_tables(page.manifest, page.result, page.found, page.averaging, folder)
    write_text(folder / "index.html", page.render())
    log.info("report: %s", shown(folder / "index.html"))


def _write_tables(
    manifest: Manifest, result: Result, found: FromFeatures | None, averaging: Averaging | None, folder: Path
) -> None:
    write_json(folder / "report.json", _numbers(result, found, averaging))
    rows = [(c.name, f"{c.precision:.6g}", f"{c.recall:.6g}", f"{c.f1:.6g}", c.support) for c in result.per_class]
    write_csv(folder / "per_class.csv", ("class", "precision", "recall", "f1", "images"), rows)
    matrix = zip(manifest.classes, result.confusion.tolist(), strict=True)
    write_csv(folder / "confusion.csv", ("true", *manifest.classes), ((name, *counts) for name, counts in matrix))
    if found is not None:
        write_csv(
            folder / "suspicious.csv",
            ("rank", "path", "split", "label", "suggested", "belief"),
            (
                (
                    rank,
                    found.paths[index],
                    found.splits[index],
                    manifest.classes[found.labels[index]],
                    manifest.classes[found.issues.suggested[index]],
                    f"{found.issues.belief[index]:.6g}",
                )
                for rank, index in enumerate(found.issues.order.tolist(), 1)
            ),
        )


def _numbers(result: Result, found: FromFeatures | None, averaging: Averaging | None) -> dict[str, Any]:
    """What the page says, for programs."""
    numbers: dict[str, Any] = {
        "split": result.split,
        "images": len(result.correct),
        "correct": int(result.correct.sum()),
        "accuracy": result.accuracy,
        "interval": result.interval,
        "balanced_accuracy": result.balanced_accuracy,
        "macro_f1": result.macro_f1,
        "top_k": result.top_k,
        "temperature": result.predictions.temperature,
        "uncalibrated": asdict(result.uncalibrated),
        "calibrated": asdict(result.calibrated),
        "confusions": [{"true": c.true, "predicted": c.predicted, "count": c.count} for c in result.confusions],
    }
    if averaging is not None:
        numbers["averaging"] = averaging.metrics()
    if found is not None:
        curve, better = found.curve, found.better_baseline()
        numbers |= {
            "head": asdict(found.head),
            "best_on_valid": better.name if better else "this classifier",
            "baselines": [asdict(baseline) for baseline in found.baselines],
            "suspicious": found.issues.count,
            "learning_curve": curve
            and {
                "images_per_class": curve.counts,
                "accuracy": curve.accuracies.mean(1).tolist(),
                "forecast": curve.forecast,
            },
        }
    return numbers
