"""index.html and the findings in its first lines; the page of an audit, with examples of each kind of finding."""

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import ScalarFormatter
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from headstart.auditing.findings import ADVICE, Finding
from headstart.auditing.report import COMPARED
from headstart.config.model import AUTO, CLOSED_FORM
from headstart.data.dataset import EvalTransform, Transform
from headstart.data.folders import is_file
from headstart.data.images import read_rgb
from headstart.data.manifest import Manifest
from headstart.data.prepare import PreparedData
from headstart.errors import HeadstartError, UnreadableImage
from headstart.evaluation.answers import FeatureAnalysis, suspicious
from headstart.evaluation.predictions import Averaging, Result
from headstart.features.source import FeatureSource
from headstart.files import REPORT, claim, write_text
from headstart.metrics import SIGNIFICANT
from headstart.model.image_classifier import UNUSUAL
from headstart.model.recipe import Recipe
from headstart.report.charts import MOST_CLASSES
from headstart.report.style import BLUE, GREEN, GREY, ORANGE, drawing, families, image_uri, png_uri, render, short, tidy
from headstart.run_folder import RunFolder
from headstart.text import counted

# Accuracies this close are called the same.
SAME = 0.005
# Of the labels, the share from which on the classifiers that judge them are believed.
AGREEING = 0.7
# Entries of each kind on the page.
CLASSES, MISTAKES, SUSPICIOUS, VIEWS, BATCH, WORST = 40, 12, 16, 8, 16, 3
EXAMPLES = 12  # findings of each kind
COLOURS = {"train": BLUE, "valid": ORANGE, "test": GREEN}


def summarize(result: Result, analysis: FeatureAnalysis | None) -> list[str]:
    """Returns the essence of a report in six sentences of plain text; without features, fewer."""
    if analysis is None:
        return [accuracy(result), _mistakes(result), probabilities(result)]
    compared = [against_baselines(result, analysis), advice(result, analysis)]
    return [accuracy(result), *compared, _mistakes(result), _more_images(analysis), _labels(analysis)]


def accuracy(result: Result) -> str:
    """Says how many images are classified correctly."""
    correct, (low, high) = int(result.correct.sum()), result.interval
    count = len(result.correct)
    return (
        f"The classifier is right about {correct:,} of {counted(count, f'{result.split} image')}: accuracy "
        f"{result.accuracy:.3f}, with 95 % confidence between {low:.2f} and {high:.2f}."
    )


def against_baselines(result: Result, analysis: FeatureAnalysis) -> str:
    """Says how the classifier compares with the baseline that is best on the valid split."""
    best = analysis.best_baseline()
    others = "best of the other simple classifiers" if analysis.head.kind in CLOSED_FORM else "best simple classifier"
    which = f"the {others} on the valid split, {best.name} ({best.accuracy:.3f}"
    if best.p_value >= SIGNIFICANT:
        return f"It is as good as {which}): the difference is within chance, p = {best.p_value:.2g}."
    verdict = "better" if result.accuracy > best.accuracy else "worse"
    return f"It is {verdict} than {which}), by more than chance, p = {best.p_value:.2g}."


def advice(result: Result, analysis: FeatureAnalysis) -> str:
    """Says which head to train instead, with what it will reach, or that none is better by more than chance."""
    better, own = analysis.better_head(), f"{analysis.head.valid_accuracy:.3f}"
    if better is None:
        return (
            f"No other head is better on the valid split by more than chance; model.head={AUTO} chooses one by "
            "cross-validation."
        )
    reached = f" and reaches {better.accuracy:.3f} on {result.split}" if result.split != "valid" else ""
    return (
        f"On the valid split, {better.name} is better by more than chance ({better.valid_accuracy:.3f}; this "
        f"classifier {own}): model.head={better.kind} trains it{reached}."
    )


def _mistakes(result: Result) -> str:
    if not result.confusions:
        return f"It makes no mistake on the {result.split} images."
    first = result.confusions[0]
    return f"Its most frequent mistake is to take {first.true} for {first.predicted} ({counted(first.count, 'image')})."


def _more_images(analysis: FeatureAnalysis) -> str:
    curve = analysis.curve
    if curve is None:
        return "There are too few training images per class to tell whether more of them would help."
    (value, low, high), now = curve.forecast, curve.accuracies[-1]
    count = curve.counts[-1]
    verdict = "would help" if low > now + SAME else "would hardly help" if high <= now + SAME else "might help"
    return (
        f"Twice the training images {verdict}: ridge regression reaches {now:.3f} with {count:.3g} images per class, "
        f"and would reach about {value:.3f} ({low:.3f} to {high:.3f}) with {2 * count:.3g}."
    )


def _labels(analysis: FeatureAnalysis) -> str:
    issues = analysis.issues
    share = float((issues.belief >= 0).mean())
    agreed = f"classifiers trained on the other images agree with {share:.0%} of the labels"
    if share < AGREEING:
        return f"Which labels are wrong cannot be told: {agreed}."
    if not issues.count:
        return f"No label is probably wrong: {agreed}."
    return (
        f"About {issues.estimate:.0f} of {len(issues.belief):,} labels are probably wrong ({issues.low:.0f} to "
        f"{issues.high:.0f}; {agreed}): {counted(issues.count, 'label')} to look at first."
    )


def probabilities(result: Result) -> str:
    """Says how far the probabilities can be believed, and what calibration changed."""
    before, after = result.uncalibrated, result.calibrated
    off = f"Its probabilities are off by {100 * after.ece:.1f} percentage points on average"
    if result.predictions.temperature == 1:
        return f"{off}."
    if result.split == "valid":
        return f"{off}, on the split that the temperature was fitted to."
    change = "lowered" if after.log_loss < before.log_loss else "did not lower"
    return f"{off}; calibration {change} the log-loss ({before.log_loss:.3f} to {after.log_loss:.3f})."


def familiarity(result: Result) -> str:
    """Says how many of the images are unusual, and whether these are more than expected."""
    count, total = len(result.unusual), len(result.correct)
    share = f"{counted(count, 'image')} of {total:,} ({count / total:.1%}) {'is' if count == 1 else 'are'} unusual"
    rule = f"the threshold is that which {UNUSUAL:.0%} of images from the same source are below, whatever they show"
    if result.split == "valid" or not more_than_expected(count, total):
        return f"{share}, as expected: {rule}. predict.py uses the same threshold."
    return f"{share}, more than expected: {rule}. Are the {result.split} images from another source?"


def more_than_expected(count: int, total: int) -> bool:
    """Whether `count` of `total` images are unusual more often than UNUSUAL, by more than chance (binomial test)."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    return bool(binomtest(count, total, UNUSUAL, alternative="greater").pvalue < SIGNIFICANT)


@dataclass(frozen=True)
class Page:
    """What the page shows. `analysis` is None without stored features; `charts` are PNGs by name.

    `explained` are images of the mistakes by their indices. `source` gives what was trained on, on the page of a
    training; `averaging` says whether the predictions are means over views of each image; `commands` are what to run
    after reading a section, by the name by which the template asks for them.
    """

    manifest: Manifest
    recipe: Recipe
    result: Result
    analysis: FeatureAnalysis | None
    charts: Mapping[str, Path]
    explained: Mapping[int, Image.Image]
    source: FeatureSource | None = None
    averaging: Averaging | None = None
    commands: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> str:
        """Returns the page as HTML, which needs no other file."""
        result, predictions = self.result, self.result.predictions
        labels, calibrated = predictions.labels.tolist(), predictions.calibrated.exp()
        ranked = sorted(result.per_class, key=lambda score: (score.f1 == score.f1, score.f1))
        none, issues = dict.fromkeys(("learning_curve", "curves", "map")), self.analysis and self.analysis.issues
        return render(
            "page.html.jinja",
            title=f"{self.manifest.root.name}: {counted(len(result.classes), 'class', 'classes')}",
            subtitle=self._subtitle(),
            essence=summarize(result, self.analysis),
            numbers=self._numbers(),
            result=result,
            analysis=self.analysis,
            averaging=self.averaging and self.averaging.describe(),
            charts=none | {name: png_uri(path) for name, path in self.charts.items()},
            per_class=result.per_class if len(result.per_class) <= CLASSES else ranked[:CLASSES],
            number=lambda value: f"{value:.3f}" if value == value else "–",
            shown_classes=min(MOST_CLASSES, len(result.classes)),
            support={score.name: score.support for score in result.per_class},
            paths=predictions.paths,
            thumbnail=self._thumbnail,
            predicted=lambda index: result.classes[int(result.predicted[index])],
            label=lambda index: result.classes[labels[index]],
            label_probability=lambda index: float(calibrated[index, labels[index]]),
            most_mistakes=MISTAKES,
            explained={index: image_uri(image) for index, image in self.explained.items()},
            suspicious=list(islice(suspicious(self.manifest, issues), min(SUSPICIOUS, issues.count))) if issues else [],
            labels=_labels(self.analysis) if self.analysis else None,
            commands=self.commands,
            class_of=self.manifest.class_of,
            guessing=f"{math.log(len(result.classes)):.2f}",
            # Where a run writes it; predictions of other images are beside their report.
            predictions_file=f"../{result.split}_predictions.csv" if self.source else "../predictions.csv",
            image_count=f"{sum(self.manifest.counts.values()):,}",
            calibration=probabilities(result),
            familiarity=familiarity(result) if math.isfinite(predictions.threshold) else None,
            worst=self._worst(),
            views=self._views(),
            batch=self._batch(),
            footer=f"Made by headstart; data fingerprint {self.manifest.fingerprint[:12]}.",
        )

    def _subtitle(self) -> str:
        counts = ", ".join(f"{count:,} {name}" for name, count in self.manifest.counts.items())
        backbone = self.recipe.backbone
        how = "frozen" if self.recipe.finetune.first_epoch is None else "fine-tuned"
        weights = Path(backbone.weights).name if backbone.weights else "random"
        return f"{counts} images; {backbone.arch}, {how}, weights {weights}"

    def _numbers(self) -> list[tuple[str, str]]:
        result = self.result
        values = {
            f"accuracy ({result.split})": result.accuracy,
            **({} if (before := result.predictions.uncorrected_accuracy) is None else {"uncorrected labels": before}),
            "balanced accuracy": result.balanced_accuracy,
            "macro F1": result.macro_f1,
            **{f"among the first {k}": value for k, value in result.top_k.items()},
            "log-loss": result.calibrated.log_loss,
        }
        return [(name, f"{value:.3f}") for name, value in values.items()]

    def _worst(self) -> list[dict[str, Any]]:
        """Returns the classes with the lowest recall, and what twice the images would bring."""
        if self.analysis is None or (curve := self.analysis.curve) is None:
            return []
        return [
            {"name": self.result.classes[label], "now": curve.recall(label)[-1], "forecast": forecast}
            for label in curve.worst_classes(WORST)
            if (forecast := curve.forecast_of(label))
        ]

    def _views(self) -> list[dict[str, str]]:
        """Returns the first training image as it is evaluated and, if it is, augmented as in the first epochs."""
        views = self._seen(EvalTransform(self.recipe.preprocessing), [(0, 0, "not augmented")])
        if self.source is None or self.source.augmentation is None:
            return views
        samples = [(view, 0, f"epoch {epoch + 1}") for view, epoch in self.source.augmented_views(VIEWS).items()]
        return views + self._seen(self.source.augmentation, samples)

    def _batch(self) -> list[dict[str, str]]:
        """Returns the first training samples as a head is trained on them."""
        if self.recipe.is_closed_form or self.source is None:
            return []
        labels, classes = self.manifest.splits["train"].labels, self.manifest.classes
        transform = self.source.augmentation or EvalTransform(self.recipe.preprocessing)
        samples = self.source.first_samples(BATCH)
        return self._seen(transform, [(view, index, classes[labels[index]]) for view, index in samples])

    def _seen(self, transform: Transform, samples: Iterable[tuple[int, int, str]]) -> list[dict[str, str]]:
        """Returns what the network sees of training samples (view, index), with captions.

        Images that have changed, or are gone, are missing.
        """
        views: list[dict[str, str]] = []
        if (split := self.manifest.splits.get("train")) is None:
            return views
        for view, index, caption in samples:
            with contextlib.suppress(HeadstartError):
                seen = to_pil_image(transform(split.read(index, transform.depth), view, index))
                views.append({"image": image_uri(seen), "caption": caption})
        return views

    def _thumbnail(self, path: str) -> str | None:
        image = self.manifest.read(path, self.recipe.preprocessing.depth)
        return None if image is None else image_uri(image)


def write_audit_page(run: RunFolder, data: PreparedData, findings: list[Finding], compared: str) -> None:
    """Writes `run.page` and its charts."""
    claim(run.report, REPORT)
    charts = {name: run.report / f"{name}.png" for name in ("classes", "sizes")}
    counts = Counter((sample.split, sample.class_name) for sample in data.scan.samples)
    _draw_classes(counts, charts["classes"])
    usable = [info for info in data.infos.values() if info.fault is None]
    _draw_sizes([(info.width, info.height) for info in usable], charts["sizes"])
    class_count = len({name for _, name in counts})
    page = render(
        "audit.html.jinja",
        title=f"Audit of {data.scan.root.name}",
        subtitle=f"{counted(len(data.infos), 'image')}, {counted(class_count, 'class', 'classes')}",
        essence=list(_essence(findings, compared)),
        charts={name: png_uri(path) for name, path in charts.items()},
        kinds=list(_kinds(data.manifest, findings)),
        class_count=class_count,
        hidden_classes=class_count > MOST_CLASSES,
        footer="Made by headstart; audit.json lists all findings.",
    )
    write_text(run.page, page)


def _essence(findings: list[Finding], compared: str) -> Iterator[str]:
    for severity in ("error", "warning"):
        kinds = Counter(finding.kind for finding in findings if finding.severity == severity)
        listed = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
        yield f"{counted(kinds.total(), severity)}: {listed}." if kinds else f"There are no {severity}s."
    yield f"Near duplicates and outliers were {'looked for' if compared == COMPARED else compared}."


def _kinds(manifest: Manifest, findings: list[Finding]) -> Iterator[dict[str, Any]]:
    for name, group in groupby(findings, key=lambda finding: finding.kind):
        of_kind = list(group)
        yield {
            "name": name,
            "severity": of_kind[0].severity,
            "advice": ADVICE[name],
            "count": len(of_kind),
            "hidden": max(0, len(of_kind) - EXAMPLES),
            "findings": [
                {"paths": of.paths, "says": of.says, "images": [*_thumbnails(manifest, of.paths)]}
                for of in of_kind[:EXAMPLES]
            ],
        }


def _thumbnails(manifest: Manifest, paths: Iterable[str]) -> Iterator[str]:
    """Yields those images that can be read as data URIs."""
    for file in (manifest.root / path for path in paths):
        if is_file(file):
            with suppress(UnreadableImage):
                yield image_uri(read_rgb(file, manifest.depth))


def _draw_classes(counts: Counter[tuple[str, str]], path: Path) -> None:
    """Draws how many images each class has in each split; of many classes, the largest and the smallest."""
    totals: Counter[str] = Counter()
    for (_, name), count in counts.items():
        totals[name] += count
    ranked = [name for name, _ in totals.most_common()]
    shown = ranked if len(ranked) <= MOST_CLASSES else ranked[: MOST_CLASSES // 2] + ranked[-MOST_CLASSES // 2 :]
    with drawing(path, 7, 1.0 + 0.22 * len(shown)) as figure:
        axes = figure.subplots()
        left = np.zeros(len(shown))
        for split in dict.fromkeys(split for split, _ in counts):
            widths = np.array([counts[split, name] for name in shown])
            axes.barh(range(len(shown)), widths, left=left, color=COLOURS.get(split, GREY), height=0.75, label=split)
            left += widths
        names = [short(name) for name in shown]
        axes.set_yticks(range(len(shown)), names, size=8, family=families(names))
        axes.invert_yaxis()
        axes.set_xlabel("images")
        if len({split for split, _ in counts}) > 1:
            axes.legend()
        tidy(axes)


def _draw_sizes(sizes: list[tuple[int, int]], path: Path) -> None:
    """Draws width by height, in pixels; the area of a dot is proportional to the number of images of that size."""
    counts = Counter(sizes)
    with drawing(path, 7, 4) as figure:
        axes = figure.subplots()
        if counts:
            widths, heights = np.array(list(counts)).T
            areas = 8 + 400 * np.array(list(counts.values())) / len(sizes)
            axes.scatter(widths, heights, s=areas, color=BLUE, alpha=0.5)
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(ScalarFormatter())
                axis.set_minor_formatter(ScalarFormatter())
        axes.set_xlabel("width in pixels")
        axes.set_ylabel("height in pixels")
        tidy(axes)
