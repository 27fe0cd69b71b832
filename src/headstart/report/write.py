"""Writes a run's record and its report, and what TensorBoard shows of them."""

import functools
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.transforms.v2.functional import to_dtype, to_image

from headstart.backbones.backbone import BackboneSource
from headstart.config.model import AUTO
from headstart.config.overrides import key_of
from headstart.config.train import TrainSettings, choices, record_of
from headstart.data.dataset import EvalTransform
from headstart.data.manifest import Manifest
from headstart.data.preprocessing import Array
from headstart.evaluation.answers import FeatureAnalysis, analyze_features, suspicious
from headstart.evaluation.predictions import Averaging, Predictions, Result
from headstart.features.source import FeatureSource
from headstart.files import REPORT, RUN, claim, read_json, remove, write_csv, write_json, write_text
from headstart.log import command, is_first_process, log, quoted, shown
from headstart.machine import cpu_name
from headstart.model.image_classifier import ImageClassifier, overlay, saliency_maps
from headstart.processes import thread_map
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
from headstart.training.trainer import TrackedRuns

# The record of a run: what it was made of, where its time went, and what came out.

# Distributions, and what those are imported as that have another name.
PACKAGES = ("headstart", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "pillow", "timm")
MODULES = {"pytorch-lightning": "pytorch_lightning", "hydra-core": "hydra", "pillow": "PIL"}
# Those on whose versions figures depend, and how much of a version says so.
DECISIVE = {"headstart": 3, "torch": 2, "torchvision": 2, "timm": 2}


class RunRecord(Callback):
    """Writes run.json, config.yaml and split.csv when a run starts and, at the end of a `with` block, metrics.json.

    The folder is claimed first. Trackers get what metrics.json has, and the page of the report. `startup`: the seconds
    that the program took before it, if it does nothing else.
    """

    def __init__(self, settings: TrainSettings, startup: float | None = None) -> None:
        self.run = RunFolder(Path(settings.run_dir))
        self.metrics: dict[str, float] = {}
        self._settings = settings
        self._start = time.perf_counter()
        self._stages: dict[str, float] = {} if startup is None else {"startup": startup}
        self._values: dict[str, Any] = {"started": datetime.now(UTC).isoformat(timespec="seconds")}
        self._tracked = TrackedRuns()

    def __enter__(self) -> "RunRecord":
        if is_first_process():
            claim(self.run.path, RUN, "hydra.run.dir")
        return self

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time in the block to the seconds of the stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stages[name] = self._stages.get(name, 0.0) + time.perf_counter() - start

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._tracked.loggers = trainer.loggers
        manifest = trainer.datamodule.source.manifest  # type: ignore[attr-defined]
        self.begin(trainer.strategy.root_device, manifest, pl_module.recipe.backbone)  # type: ignore[union-attr, arg-type]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        views = trainer.datamodule.source.views_of(trainer.current_epoch)  # type: ignore[attr-defined]
        self._values["encoded_views"] = views

    def begin(self, device: torch.device, manifest: Manifest, backbone: BackboneSource) -> None:
        """Records what the run is made of, and what is known about the program and the machine; `device` trains."""
        self._values |= {
            "backbone": asdict(backbone),
            "data_fingerprint": manifest.fingerprint,
            "splits": manifest.origins,
            "notes": manifest.notes,
            "skipped": manifest.skipped,
            "dropped": manifest.dropped,
            "command": sys.argv,
            "choices": choices(),
            **_program(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            "platform": platform.platform(),
        }
        if is_first_process():
            write_json(self.run.record, self._values)
            write_text(self.run.config, record_of(self._settings))
            manifest.write(self.run.split)
        log.info("run folder: %s", shown(self.run.path))

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._tracked.end(failed=error is not None)

    def _finish(self) -> None:
        self.metrics["seconds"] = seconds = round(time.perf_counter() - self._start, 3)
        stages = self._stages | {"all": seconds + self._stages.get("startup", 0.0)}
        if is_first_process():
            rounded = {name: round(value, 3) for name, value in stages.items()}
            write_json(self.run.record, self._values | {"seconds": rounded})
            write_json(self.run.metrics, self.metrics)
            self._tracked.add_outcome(self.metrics, self.run.page)
        log.info("finished in %.0f s", seconds)


@functools.cache
def _program() -> dict[str, Any]:
    """Returns what the code that this process runs consists of: the same for all trials of a sweep."""
    git = git_state(Path(__file__).parent)
    return {"git": git, "python": platform.python_version(), "packages": _versions()}


def _versions() -> dict[str, str]:
    """Returns the versions of those of PACKAGES that are installed: timm is an extra."""
    return {name: version(name) for name in PACKAGES if find_spec(MODULES.get(name, name)) is not None}


def git_state(folder: Path) -> dict[str, Any] | None:
    """Returns the commit of the repository around `folder`, and whether files differ from it; None outside of one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def warn_about_versions(run: RunFolder) -> None:
    """Warns if a run was made with other versions of the libraries that its figures depend on."""
    try:
        recorded: dict[str, str] = read_json(run.record)["packages"]
    except (OSError, ValueError, KeyError, TypeError):
        # The checkpoint was taken out of its run's folder.
        return
    here = _versions()
    both = [name for name in DECISIVE if name in recorded and name in here]
    other = [n for n in both if recorded[n].split(".")[: DECISIVE[n]] != here[n].split(".")[: DECISIVE[n]]]
    if other:
        before, now = (", ".join(f"{name} {of[name]}" for name in other) for of in (recorded, here))
        log.warning("the checkpoint was made with %s, this is %s: figures may differ from its run's", before, now)


# The report: the page, its charts as PNG, and its numbers as JSON and CSV.


# Of each training image, in the command that leads on to more of them.
MORE_VIEWS = 8


def write_report(
    fitted: Fitted, predictions: dict[str, Predictions], run: RunFolder, averaging: Averaging | None
) -> None:
    """Answers what a user asks after a training, in the folder `run.report`.

    `predictions` are of the valid split and, if there is one, of the test split; `averaging` is of the views that they
    may be averaged over.
    """
    classifier, source, manifest = fitted.classifier, fitted.source, fitted.source.manifest
    # Encoded by all processes together.
    features = source.unaugmented() if source.is_stored else None
    if not is_first_process():
        return
    claim(run.report, REPORT)
    split, analysis = "test" if "test" in predictions else "valid", None
    result = Result(split, manifest.classes, predictions[split])
    # The passes through the backbone that explain mistakes take as long as the fits, and need little of Python's lock.
    with ThreadPoolExecutor(1) as beside:
        explained = beside.submit(explain_mistakes, classifier, manifest, result)
        if features is not None:
            analysis = analyze_features(classifier, manifest, features, result, predictions["valid"], manifest.units)
        draw_curves(fitted.history, fitted.best_epoch, run.curves)
        charts = {"curves": run.curves} | _draw(result, analysis, run.report)
    commands = commands_of(run, source, analysis)
    page = Page(manifest, classifier.recipe, result, analysis, charts, explained.result(), source, averaging, commands)
    _write(page, run.report)
    add_to_tensorboard(run, charts, manifest, result, analysis)


def commands_of(run: RunFolder, source: FeatureSource, analysis: FeatureAnalysis | None) -> dict[str, str]:
    """Returns what to run after a training, by the sections of the page that lead to it."""
    checkpoint, better = f"ckpt_path={shown(run.path)}", analysis and analysis.better_head()
    return {
        "head": trained_again(run, f"model.head={better.kind if better else AUTO}") if analysis else "",
        "label": command("train.py", ["task=label", checkpoint, "source=UNLABELLED"]),
        "review": command("train.py", ["task=review", checkpoint]),
        "tensorboard": f"tensorboard --logdir {quoted(str(shown(run.path)))}",
        "predict": command("predict.py", [checkpoint, "source=FILE_OR_FOLDER"]),
        "views": trained_again(run, f"features.views={MORE_VIEWS}") if source.views_of(MORE_VIEWS) < MORE_VIEWS else "",
    }


def trained_again(run: RunFolder, change: str) -> str:
    """Returns the command of a run with one setting changed.

    "": it was not trained by one command from the start, or has this setting.
    """
    _, *arguments = read_json(run.record)["command"]
    keys = [key_of(argument) for argument in arguments if "=" in argument]
    if len(keys) < len(arguments) or {"ckpt_path", "data.fold"} & set(keys) or change in arguments:
        return ""
    others = [a for a in arguments if key_of(a) not in ("task", "hydra.run.dir", key_of(change))]
    return command("train.py", [*others, change])


def write_result(classifier: ImageClassifier, manifest: Manifest, result: Result, folder: Path) -> None:
    """Writes the part of a report that takes nothing but predictions into `folder`."""
    claim(folder, REPORT)
    explained = explain_mistakes(classifier, manifest, result)
    _write(Page(manifest, classifier.recipe, result, None, _draw(result, None, folder), explained), folder)


def _draw(result: Result, analysis: FeatureAnalysis | None, folder: Path) -> dict[str, Path]:
    """Draws the charts, and returns their files by their names."""
    charts = {name: folder / f"{name}.png" for name in ("accuracy", "confusion", "reliability")}
    draw_accuracy(result, analysis, charts["accuracy"])
    draw_confusion(result, charts["confusion"])
    draw_reliability(result, charts["reliability"])
    if analysis is not None:
        charts["map"] = folder / "map.png"
        draw_map(result, analysis.places, charts["map"])
        if analysis.curve is not None:
            charts["learning_curve"] = folder / "learning_curve.png"
            draw_learning_curve(analysis.curve, result.classes, charts["learning_curve"])
    return charts


def explain_mistakes(classifier: ImageClassifier, manifest: Manifest, result: Result) -> dict[int, Image.Image]:
    """Returns the most confident mistakes, coloured by what speaks for the predicted class; by their indices.

    Those that have changed, or are gone, are missing.
    """
    transform, seen = EvalTransform(classifier.recipe.preprocessing), {}
    for index in result.mistakes[:MISTAKES]:
        image = manifest.read(result.predictions.paths[index], transform.depth)
        if image is not None:
            seen[index] = transform(image, 0, index)
    if not seen:
        return {}
    images, classes = torch.stack(list(seen.values())), result.predicted[list(seen)]
    maps = saliency_maps(classifier, images, classes.to(classifier.encoder.device)).cpu()
    return {index: overlay(image, saliency) for (index, image), saliency in zip(seen.items(), maps, strict=True)}


def _write(page: Page, folder: Path) -> None:
    result, manifest = page.result, page.manifest
    write_json(folder / "report.json", _numbers(result, page.analysis, page.averaging))
    rows = [(c.name, f"{c.precision:.6g}", f"{c.recall:.6g}", f"{c.f1:.6g}", c.support) for c in result.per_class]
    write_csv(folder / "per_class.csv", ("class", "precision", "recall", "f1", "images"), rows)
    matrix = zip(result.classes, result.confusion.tolist(), strict=True)
    write_csv(folder / "confusion.csv", ("true", *result.classes), ((name, *counts) for name, counts in matrix))
    if page.analysis is not None:
        ranked = enumerate(suspicious(manifest, page.analysis.issues), 1)
        issues = ((rank, *names, f"{belief:.6g}") for rank, (*names, belief) in ranked)
        write_csv(folder / "suspicious.csv", ("rank", "path", "split", "label", "suggested", "belief"), issues)
    write_text(folder / "index.html", page.render())
    log.info("report: %s", shown(folder / "index.html"))


def _numbers(result: Result, analysis: FeatureAnalysis | None, averaging: Averaging | None) -> dict[str, Any]:
    """Returns what the page says, for programs."""
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
        "unusual": [result.predictions.paths[index] for index in result.unusual],
        "confusions": [{"true": c.true, "predicted": c.predicted, "count": c.count} for c in result.confusions],
    }
    if (before := result.predictions.uncorrected_accuracy) is not None:
        numbers["accuracy_uncorrected"] = before
    if averaging is not None:
        numbers["averaging"] = averaging.metrics()
    if analysis is not None:
        curve, issues, better = analysis.curve, analysis.issues, analysis.better_head()
        numbers |= {
            "head": asdict(analysis.head),
            "better_head": better.kind if better else None,
            "baselines": [asdict(baseline) for baseline in analysis.baselines],
            "label_issues": {
                "estimate": issues.estimate,
                "low": issues.low,
                "high": issues.high,
                "listed": issues.count,
            },
            "learning_curve": curve
            and {
                "images_per_class": curve.counts,
                "accuracy": curve.accuracies,
                "forecast": curve.forecast,
            },
        }
    return numbers


# What TensorBoard shows of it.

# Of the projector.
MOST_IMAGES, SIDE = 400, 40  # pixels
HEADER = ["class", "prediction", "path"]


def add_to_tensorboard(
    run: RunFolder, charts: Mapping[str, Path], manifest: Manifest, result: Result, analysis: FeatureAnalysis | None
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
        if analysis is not None:
            # TensorBoard's name for what it is about to write.
            remove(run.report / "00000")
            projected = _to_project(manifest, result, analysis.features)
            writer.add_embedding(*projected, tag="features", metadata_header=HEADER)


def _to_project(manifest: Manifest, result: Result, features: Array) -> tuple[Array, list[list[str]], Tensor]:
    """Returns features (N, d), labels, and thumbnails (N, 3, SIDE, SIDE) from 0 to 1 of images that can be read."""
    paths, labels = result.predictions.paths, result.predictions.labels.tolist()
    # Spread over the split, which is sorted by class.
    chosen = np.unique(np.linspace(0, len(paths) - 1, min(MOST_IMAGES, len(paths))).astype(int)).tolist()
    images = thread_map(lambda index: _thumbnail(manifest, paths[index]), chosen)
    thumbnails = {index: image for index, image in zip(chosen, images, strict=True) if image is not None}
    kept = list(thumbnails)
    names = [[result.classes[labels[i]], result.classes[int(result.predicted[i])], paths[i]] for i in kept]
    cells = [[on_one_line(cell).encode("utf-8", "replace").decode() for cell in row] for row in names]
    return features[kept].astype(np.float32), cells, torch.stack(list(thumbnails.values()))


def _thumbnail(manifest: Manifest, path: str) -> Tensor | None:
    if (image := manifest.read(path, manifest.depth)) is None:
        return None
    return to_dtype(to_image(ImageOps.pad(image, (SIDE, SIDE))), torch.float32, scale=True)
