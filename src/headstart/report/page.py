"""The report's page: one HTML file that needs nothing else."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from headstart.data.manifest import Manifest
from headstart.data.transforms import EvalTransform, TrainTransform
from headstart.evaluation.answers import FromFeatures
from headstart.evaluation.result import Result
from headstart.model.recipe import Recipe
from headstart.report.summary import counted, probabilities, summarize
from headstart.report.thumbnails import png_uri, thumbnail, view_of

# Entries of each kind on the page.
CLASSES, CONFUSIONS, MISTAKES, SUSPICIOUS, VIEWS = 40, 8, 12, 16, 8


@dataclass(frozen=True)
class Page:
    """What the page shows. `found` is None without stored features; `charts` are PNGs by name."""

    manifest: Manifest
    recipe: Recipe
    result: Result
    found: FromFeatures | None
    charts: Mapping[str, Path]
    shown_classes: int

    def render(self) -> str:
        """The page as HTML."""
        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
        source = files("headstart.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
        # Names that are not UTF-8 are shown with a replacement character.
        html = environment.from_string(source).render(**self._context())
        return html.encode("utf-8", "replace").decode()

    def _context(self) -> dict[str, Any]:
        result, found = self.result, self.found
        ranked = sorted(result.per_class, key=lambda score: (score.f1 == score.f1, score.f1))
        shown = result.per_class if len(result.per_class) <= CLASSES else ranked[:CLASSES]
        none = {"learning_curve": None}
        return {
            "title": f"{self.manifest.root.name}: {counted(len(result.classes), 'class', 'classes')}",
            "subtitle": self._subtitle(),
            "essence": summarize(result, found),
            "numbers": list(self._numbers()),
            "charts": none | {name: png_uri(path) for name, path in self.charts.items()},
            "baselines": found.baselines if found else (),
            "without_features": "Without stored features of a frozen backbone there are no baselines, no learning "
            "curve and no check of the labels.",
            "per_class": shown,
            "number": lambda value: f"{value:.3f}" if value == value else "–",
            "hidden_classes": len(result.per_class) - len(shown),
            "class_count": len(result.classes),
            "shown_classes": self.shown_classes,
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
            "views": list(self._views()),
            "footer": f"Made by headstart; data fingerprint {self.manifest.fingerprint[:12]}.",
        }

    def _subtitle(self) -> str:
        counts = ", ".join(f"{count:,} {name}" for name, count in self.manifest.counts.items())
        backbone = self.recipe.backbone
        how = "frozen" if self.recipe.finetune.first_epoch is None else "fine-tuned"
        return f"{counts} images; {backbone.arch}, {how}, weights {backbone.weights or 'random'}"

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

    def _views(self) -> Iterator[dict[str, str]]:
        """The first training image as it is evaluated, and augmented as in the first epochs."""
        split, preprocessing = self.manifest.splits["train"], self.recipe.preprocessing
        if image := view_of(split, EvalTransform(preprocessing), 0, 0):
            yield {"image": image, "caption": "not augmented"}
        augmented = TrainTransform(preprocessing, self.recipe.seed)
        for view in range(VIEWS):
            if image := view_of(split, augmented, view, 0):
                yield {"image": image, "caption": f"epoch {view + 1}"}

    def _thumbnail(self, path: str) -> str | None:
        return thumbnail(self.manifest.root / path)
