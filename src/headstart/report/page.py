"""index.html, and the findings in its first lines."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from headstart.config.model import CLOSED_FORM, TRAINED
from headstart.data.manifest import Manifest
from headstart.data.transforms import EvalTransform, Transform
from headstart.evaluation.answers import FromFeatures, LearningCurve
from headstart.evaluation.predictions import SIGNIFICANT, Averaging
from headstart.evaluation.probes import HEADS
from headstart.evaluation.result import Result
from headstart.model.recipe import Recipe
from headstart.report.charts import MOST_CLASSES
from headstart.report.style import image_uri, png_uri, render, view_of
from headstart.text import counted

# The essence of a report, in six sentences.


# Accuracies this close are called the same.
SAME = 0.005


def summarize(result: Result, found: FromFeatures | None) -> list[str]:
    """Plain text; without features, fewer sentences."""
    if found is None:
        return [accuracy(result), _mistakes(result), probabilities(result)]
    compared = [against_baselines(result, found), best_on_valid(found)]
    return [accuracy(result), *compared, _mistakes(result), _more_images(found), _labels(found)]


def against_baselines(result: Result, found: FromFeatures) -> str:
    """Whether the head is better than the best baseline, and whether that is more than chance."""
    best = found.best_baseline()
    difference = result.accuracy - best.accuracy
    sure = best.p_value < SIGNIFICANT
    others = "best of the other simple classifiers" if found.head.kind in CLOSED_FORM else "best simple classifier"
    which = f"the {others}, {best.name} on the same features"
    if abs(difference) < SAME and not sure:
        return f"It is as good as {which} ({best.accuracy:.3f})."
    chance = "more than chance" if sure else "which may be chance"
    detail = f"{best.accuracy:.3f}; {chance}, p = {best.p_value:.2g}"
    if difference > 0:
        return f"It is better than {which} ({detail})."
    return f"It does not beat {which} ({detail})."


def best_on_valid(found: FromFeatures) -> str:
    """Which of the head and the baselines is best on the valid split, and how to get it."""
    better, own = found.better_baseline(), f"{found.head.valid_accuracy:.3f}"
    if better is None:
        best = found.best_baseline()
        return f"Best on the valid split: this classifier ({own}; next, {best.name}, {best.valid_accuracy:.3f})."
    head = HEADS.get(better.name)
    how = "one step by step" if head in TRAINED else "it"
    advice = f"; model.head={head} trains {how}" if head not in (None, found.head.kind) else ""
    return f"Best on the valid split: {better.name} ({better.valid_accuracy:.3f}; this classifier {own}){advice}."


def accuracy(result: Result) -> str:
    """How many images are classified correctly."""
    correct, (low, high) = int(result.correct.sum()), result.interval
    count = len(result.correct)
    return (
        f"The classifier is right about {correct:,} of {counted(count, f'{result.split} image')}: accuracy "
        f"{result.accuracy:.3f}, with 95 % confidence between {low:.2f} and {high:.2f}."
    )


def _mistakes(result: Result) -> str:
    if not result.confusions:
        return f"It makes no mistake on the {result.split} images."
    first = result.confusions[0]
    return f"Its most frequent mistake is to take {first.true} for {first.predicted} ({counted(first.count, 'image')})."


def probabilities(result: Result) -> str:
    """How far the probabilities can be believed, and what calibration changed."""
    before, after = result.uncalibrated, result.calibrated
    if result.predictions.temperature == 1:
        return f"Its probabilities are off by {100 * after.ece:.1f} percentage points on average."
    change = "lowered" if after.log_loss < before.log_loss else "did not lower"
    return (
        f"Its probabilities are off by {100 * after.ece:.1f} percentage points on average; calibration {change} the "
        f"log-loss ({before.log_loss:.3f} to {after.log_loss:.3f})."
    )


def _more_images(found: FromFeatures) -> str:
    curve = found.curve
    if curve is None or curve.forecast is None:
        return "There are too few training images per class to tell whether more of them would help."
    value, low, high = curve.forecast
    now = float(curve.accuracies[-1].mean())
    advice = "would help" if low > now + SAME else "might help" if value > now + SAME else "would hardly help"
    return (
        f"Twice the training images {advice}: ridge regression reaches {now:.3f} with {curve.counts[-1]} images per "
        f"class, and would reach about {value:.3f} ({low:.3f} to {high:.3f}) with {2 * curve.counts[-1]}."
    )


def familiarity(result: Result) -> str:
    """How many of the images are unlike anything trained on."""
    count, total = len(result.unfamiliar), len(result.correct)
    return (
        f"{counted(count, 'image')} of {total:,} ({count / total:.1%}) "
        f"{'is' if count == 1 else 'are'} unlike anything trained on, by a threshold that 5 % of the valid split are "
        "below. predict.py uses the same threshold."
    )


def _labels(found: FromFeatures) -> str:
    if not found.issues.count:
        return "Every label agrees with what the other images suggest."
    return (
        f"{counted(found.issues.count, 'label')} of {len(found.labels):,} "
        f"{'disagrees' if found.issues.count == 1 else 'disagree'} with what the other images suggest: look at them "
        "first."
    )


# The report's page: one HTML file that needs nothing else.


# Entries of each kind on the page.
CLASSES, CONFUSIONS, MISTAKES, UNFAMILIAR, SUSPICIOUS, VIEWS, WORST = 40, 8, 12, 8, 16, 8, 3


@dataclass(frozen=True)
class Page:
    """What the page shows. `found` is None without stored features; `charts` are PNGs by name.

    `explained` are pictures of the mistakes by their indices, `batch` the (view, index) of the first training samples,
    `augmentation` what made their views, if they are augmented. `averaging` says whether the predictions are means over
    views of each image.
    """

    manifest: Manifest
    recipe: Recipe
    result: Result
    found: FromFeatures | None
    charts: Mapping[str, Path]
    explained: Mapping[int, Image.Image]
    batch: Sequence[tuple[int, int]] = ()
    augmentation: Transform | None = None
    averaging: Averaging | None = None

    def render(self) -> str:
        """The page as HTML."""
        return render("page.html.jinja", **self._context())

    def _context(self) -> dict[str, Any]:
        result, found = self.result, self.found
        ranked = sorted(result.per_class, key=lambda score: (score.f1 == score.f1, score.f1))
        shown = result.per_class if len(result.per_class) <= CLASSES else ranked[:CLASSES]
        none = dict.fromkeys(("learning_curve", "curves", "map"))
        return {
            "title": f"{self.manifest.root.name}: {counted(len(result.classes), 'class', 'classes')}",
            "subtitle": self._subtitle(),
            "essence": summarize(result, found),
            "numbers": list(self._numbers()),
            "averaging": self.averaging and self.averaging.describe(),
            "charts": none | {name: png_uri(path) for name, path in self.charts.items()},
            "head": found.head if found else None,
            "result": result,
            "baselines": found.baselines if found else (),
            "without_features": "Without stored features of a frozen backbone there are no baselines, no learning "
            "curve and no check of the labels.",
            "per_class": shown,
            "number": lambda value: f"{value:.3f}" if value == value else "–",
            "hidden_classes": len(result.per_class) - len(shown),
            "class_count": len(result.classes),
            "shown_classes": min(MOST_CLASSES, len(result.classes)),
            "split": result.split,
            "confusions": list(self._confusions()),
            "mistakes": list(self._mistakes()),
            "neighbours": found is not None,
            "suspicious": list(self._suspicious(found)) if found else None,
            "image_count": f"{sum(self.manifest.counts.values()):,}",
            "calibration": probabilities(result),
            "before": result.uncalibrated,
            "after": result.calibrated,
            "temperature": result.predictions.temperature,
            "unfamiliar": [self._unfamiliar(index) for index in result.unfamiliar[:UNFAMILIAR]],
            "familiarity": familiarity(result) if math.isfinite(result.predictions.threshold) else None,
            "worst": list(self._worst(found.curve)) if found and found.curve else [],
            "views": list(self._views()),
            "batch": list(self._batch()),
            "footer": f"Made by headstart; data fingerprint {self.manifest.fingerprint[:12]}.",
        }

    def _subtitle(self) -> str:
        counts = ", ".join(f"{count:,} {name}" for name, count in self.manifest.counts.items())
        backbone = self.recipe.backbone
        how = "frozen" if self.recipe.finetune.first_epoch is None else "fine-tuned"
        weights = Path(backbone.weights).name if backbone.weights else "random"
        return f"{counts} images; {backbone.arch}, {how}, weights {weights}"

    def _numbers(self) -> Iterator[tuple[str, str]]:
        result = self.result
        yield f"accuracy ({result.split})", f"{result.accuracy:.3f}"
        yield "balanced accuracy", f"{result.balanced_accuracy:.3f}"
        yield "macro F1", f"{result.macro_f1:.3f}"
        for k, value in result.top_k.items():
            yield f"among the first {k}", f"{value:.3f}"
        yield "log-loss", f"{result.calibrated.log_loss:.3f}"

    def _confusions(self) -> Iterator[dict[str, Any]]:
        support = {score.name: score.support for score in self.result.per_class}
        for found in self.result.confusions[:CONFUSIONS]:
            image = self._thumbnail(self.result.predictions.paths[found.example])
            yield {
                "image": image,
                "true": found.true,
                "predicted": found.predicted,
                "count": found.count,
                "support": support[found.true],
            }

    def _mistakes(self) -> Iterator[dict[str, Any]]:
        result, probabilities = self.result, self.result.predictions.calibrated.exp()
        for index in result.mistakes[:MISTAKES]:
            label = int(result.predictions.labels[index])
            similar = self.found.neighbours[index] if self.found else ()
            yield {
                "image": self._thumbnail(result.predictions.paths[index]),
                "explained": image_uri(self.explained[index]) if index in self.explained else None,
                "path": result.predictions.paths[index],
                "predicted": result.classes[int(result.predicted[index])],
                "probability": float(result.confidence[index]),
                "label": result.classes[label],
                "label_probability": float(probabilities[index, label]),
                "neighbours": [{"image": self._thumbnail(path), "path": path} for path in similar],
            }

    def _suspicious(self, found: FromFeatures) -> Iterator[dict[str, Any]]:
        for index in found.issues.order[: min(SUSPICIOUS, found.issues.count)].tolist():
            yield {
                "image": self._thumbnail(found.paths[index]),
                "path": found.paths[index],
                "split": found.splits[index],
                "label": self.result.classes[found.labels[index]],
                "suggested": self.result.classes[found.issues.suggested[index]],
            }

    def _unfamiliar(self, index: int) -> dict[str, Any]:
        path = self.result.predictions.paths[index]
        predicted = self.result.classes[int(self.result.predicted[index])]
        return {"image": self._thumbnail(path), "path": path, "predicted": predicted}

    def _worst(self, curve: LearningCurve) -> Iterator[dict[str, Any]]:
        """The classes with the lowest recall, and what twice the images would bring."""
        for label in curve.worst_classes(WORST):
            if forecast := curve.forecast_of(label):
                yield {"name": self.result.classes[label], "now": curve.recall(label)[-1], "forecast": forecast}

    def _views(self) -> Iterator[dict[str, str]]:
        """The first training image as it is evaluated and, if it is, augmented as in the first epochs."""
        yield from self._seen(EvalTransform(self.recipe.preprocessing), [(0, 0)], lambda view: "not augmented")
        if self.augmentation is not None:
            views = [(view, 0) for view in range(VIEWS)]
            yield from self._seen(self.augmentation, views, lambda view: f"epoch {view + 1}")

    def _batch(self) -> Iterator[dict[str, str]]:
        """The first training samples as a head is trained on them."""
        if self.recipe.is_closed_form:
            return
        labels = self.manifest.splits["train"].labels if self.batch else ()
        names = iter([self.manifest.classes[labels[index]] for _, index in self.batch])
        transform = self.augmentation or EvalTransform(self.recipe.preprocessing)
        yield from self._seen(transform, self.batch, lambda view: next(names))

    def _seen(
        self, transform: Transform, samples: Iterable[tuple[int, int]], caption: Callable[[int], str]
    ) -> Iterator[dict[str, str]]:
        """What the network sees of training samples (view, index)."""
        if (split := self.manifest.splits.get("train")) is None:
            return
        for view, index in samples:
            text = caption(view)
            if image := view_of(split, transform, view, index):
                yield {"image": image, "caption": text}

    def _thumbnail(self, path: str) -> str | None:
        image = self.manifest.read(path, self.recipe.preprocessing.depth)
        return None if image is None else image_uri(image)
