"""report/: the page, its charts as PNG, and its numbers as JSON and CSV."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from headstart.commands import shown
from headstart.data.manifest import Manifest
from headstart.evaluation.answers import FromFeatures, ask_features, describe_head, score
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.result import Result
from headstart.evaluation.views import Averaging
from headstart.files import write_csv, write_json, write_text
from headstart.log import is_first_process, log
from headstart.marker import REPORT, claim
from headstart.model.image_classifier import ImageClassifier
from headstart.report.charts import draw_accuracy, draw_confusion, draw_learning_curve, draw_map, draw_reliability
from headstart.report.curves import draw_curves
from headstart.report.explained import explain_mistakes
from headstart.report.page import MISTAKES, Page
from headstart.report.tensorboard import add_to_tensorboard
from headstart.run_folder import RunFolder
from headstart.training.fit import Fitted

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
