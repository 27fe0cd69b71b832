"""The audit: what the features add to its findings, near duplicates, and the written report.

With data.group=near_duplicates, images that look almost the same to the backbone stay in one split.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import astuple, dataclass, replace
from functools import partial, reduce
from itertools import groupby, pairwise
from operator import or_
from pathlib import Path

import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from headstart.auditing.findings import MISSING_GROUPS, MISSING_VALUE, Finding, find_problems, in_order
from headstart.backbones.backbone import Backbone, load_backbone
from headstart.config.data import NEAR_DUPLICATES, DataSettings
from headstart.config.train import TrainSettings
from headstart.data.folders import MADE, listed
from headstart.data.manifest import Manifest, Split
from headstart.data.prepare import PreparedData, prepare_data
from headstart.data.preprocessing import Array
from headstart.data.scan import Scan
from headstart.data.splits import joined
from headstart.evaluation.probes import MOST_TRAINED, unit_rows
from headstart.features.source import encode_unaugmented
from headstart.files import write_json
from headstart.log import is_first_process, log, render_table
from headstart.run_folder import RunFolder
from headstart.text import named

# What features say: which images look almost like another one (cropped, scaled, compressed again, the next of a burst),
# and which are unlike the rest of their class.

# Cosine similarity of centered features from which a pair is listed.
SIMILAR = 0.9
# A pair that is less similar is listed if it is at least this similar, and by at least this much more similar than
# either is to any third image. Of photographs and ImageNet features, all copies cropped by a twentieth at each edge and
# compressed again are found, and no pair of different photographs.
ALIKE, GAP = 0.8, 0.15
# More are only compared on request: the time grows with the square of their number.
MOST_IMAGES = 200_000
# Compared at a time, which bounds the memory.
ROWS, COLUMNS = 1024, 16384
# An outlier is less similar to the rest of its class than a quarter of them are, by this many interquartile ranges.
FAR = 2.5
SMALLEST = 10  # classes in which outliers are looked for
# If more than this fraction of the images outside train look almost like one in another split, they may be series.
SERIES = 0.05


@dataclass(frozen=True)
class Pooled:
    """The N images of all splits in turn. `units` (N, embedding_dim) are centred features of unit length.

    `contents` (N) are equal for exact duplicates.
    """

    units: Array
    paths: tuple[str, ...]
    labels: Array
    contents: Array
    splits: Array


@dataclass(frozen=True)
class Nearest:
    """Holds for each of N images the index of the most similar other one, its similarity, and that of the second."""

    index: Array
    best: Array
    second: Array

    def merged(self, other: "Nearest") -> "Nearest":
        """Returns the nearest of the same images among all that either has compared them with."""
        is_other = other.best > self.best
        second = np.maximum(np.minimum(self.best, other.best), np.maximum(self.second, other.second))
        return Nearest(np.where(is_other, other.index, self.index), np.maximum(self.best, other.best), second)

    def pairs(self, chosen: Array) -> dict[tuple[int, int], float]:
        """Returns the similarity of the pairs of all `chosen` (N) images, the lower index first."""
        first = np.flatnonzero(chosen)
        pairs = np.sort(np.stack([first, self.index[first]], axis=1), axis=1)
        return dict(zip(map(tuple, pairs.tolist()), self.best[first].tolist(), strict=True))


def find_from_features(
    splits: dict[str, Split], features: dict[str, Array], movable: Collection[str] = ()
) -> list[Finding]:
    """Returns the near duplicates, the most similar first, and the outliers of all splits.

    `features` (N, embedding_dim) are unaugmented, in the order of each split's samples. The first finding of near
    duplicates in two of the `movable` splits says which setting keeps such pairs together.
    """
    images = _pooled(splits, features)
    return [*sorted(_near_duplicates(images, movable), key=lambda finding: finding.kind), *_outliers(images)]


def _pooled(splits: dict[str, Split], features: dict[str, Array]) -> Pooled:
    centred = np.concatenate([np.asarray(features[name], np.float32) for name in splits])
    centred -= centred.mean(0)
    contents = [content for split in splits.values() for content in split.contents]
    return Pooled(
        unit_rows(centred),
        tuple(path for split in splits.values() for path in split.paths),
        np.array([label for split in splits.values() for label in split.labels]),
        np.unique(contents, return_inverse=True)[1],
        np.array([name for name, split in splits.items() for _ in split.paths]),
    )


def with_near_duplicates(manifest: Manifest, features: dict[str, Array]) -> Manifest:
    """Returns the manifest, with near duplicates among the images that have `features` (N, d) in one of its `units`.

    Of many images, which would take minutes to compare, it is the same one.
    """
    part = replace(manifest, splits={name: manifest.splits[name] for name in features})
    if sum(part.counts.values()) > MOST_TRAINED:
        return manifest
    units = _with_pairs(part, _pooled(part.splits, features))
    return replace(manifest, copies=manifest.copies | copies_of(part, units))


def copies_of(manifest: Manifest, units: Array) -> dict[str, str]:
    """Returns a value for each image by path that is not alone in its unit (N): the same for all in it."""
    images = [
        (path, content or path)
        for split in manifest.splits.values()
        for path, content in zip(split.paths, split.contents, strict=True)
    ]
    counts, names = Counter(units.tolist()), dict[int, str]()
    for (_, content), unit in sorted(zip(images, units.tolist(), strict=True)):
        names.setdefault(unit, content)
    return {path: names[unit] for (path, _), unit in zip(images, units.tolist(), strict=True) if counts[unit] > 1}


def _by_split(manifest: Manifest, values: Array) -> dict[str, Array]:
    """The values (N) of all images in turn, by split."""
    ends = np.cumsum([len(split) for split in manifest.splits.values()])[:-1]
    return dict(zip(manifest.splits, np.split(values, ends), strict=True))


def alike_units(manifest: Manifest, features: dict[str, Array]) -> dict[str, Array]:
    """Returns the units (N) of each split's images, as `Manifest.units`, with all near duplicates in the same one.

    Unlike `with_near_duplicates`, it does not depend on which images are in which split: of whatever unit is put into
    one split, `find_from_features` finds nothing across splits.
    """
    images = _pooled(manifest.splits, features)
    known, count = _with_pairs(manifest, images), len(images.units)
    for rows in _tiles(slice(0, count), ROWS):
        for columns in _tiles(slice(rows.start, count), COLUMNS):
            first, second = np.nonzero(images.units[rows] @ images.units[columns].T >= SIMILAR)
            known = joined(known, rows.start + first, columns.start + second)
    return _by_split(manifest, known)


def _with_pairs(manifest: Manifest, images: Pooled) -> Array:
    """The units (N) of all images in turn, as the manifest has them, with the pairs that are listed in the same one."""
    first, second = np.array([*_pairs(images)], int).reshape(-1, 2).T
    return joined(np.concatenate([manifest.units[name] for name in manifest.splits]), first, second)


def movable_splits(scan: Scan) -> tuple[str, ...]:
    """Returns the splits that data.group=near_duplicates would draw otherwise; none if there are groups already."""
    return scan.drawn if scan.groups is None and not scan.by_features else ()


def missing_groups(manifest: Manifest, findings: list[Finding]) -> list[Finding]:
    """Returns a finding if the near duplicates in `findings` suggest groups of images, but the manifest has none."""
    splits = {path: name for name, split in manifest.splits.items() for path in split.paths}
    pairs = [finding.paths for finding in findings if finding.kind == "near duplicates across splits"]
    alike = {path for pair in pairs for path in pair if splits[path] != "train"}
    outside = sum(name != "train" for name in splits.values())
    if manifest.groups or len(alike) <= SERIES * outside:
        return []
    says = f"{len(alike)} of the {outside} images outside train look almost like one in another split"
    return [Finding(MISSING_GROUPS, (), says)]


def _near_duplicates(images: Pooled, movable: Collection[str]) -> Iterator[Finding]:
    """Yields pairs of similar images, the most similar first; exact duplicates are left out."""
    advice = f"; data.group={NEAR_DUPLICATES} keeps such pairs in one split"
    for (first, second), similarity in sorted(_pairs(images).items(), key=lambda item: -item[1]):
        is_same_class = images.labels[first] == images.labels[second]
        is_across = images.splits[first] != images.splits[second]
        kinds = {
            "near duplicates with conflicting labels": not is_same_class,
            "near duplicates across splits": is_across,
            "near duplicates within a split": is_same_class and not is_across,
        }
        paths = images.paths[first], images.paths[second]
        says = f"similarity {similarity:.3f}"
        if is_across and {images.splits[first], images.splits[second]} <= {*movable}:
            # Said once.
            says, advice = says + advice, ""
        yield from (Finding(kind, paths, says) for kind, holds in kinds.items() if holds)


def _pairs(images: Pooled) -> dict[tuple[int, int], float]:
    """The similarity of each pair of indices, the lower one first."""
    in_splits = [_nearest(images, split) for split in _ranges(images.splits)]
    nearest = reduce(Nearest.merged, in_splits)
    gap = nearest.best - np.maximum(nearest.second, nearest.second[nearest.index])
    is_mutual = nearest.index[nearest.index] == np.arange(len(gap))
    alike = nearest.pairs(is_mutual & (nearest.best >= ALIKE) & (gap >= GAP))
    return reduce(or_, (split.pairs(split.best >= SIMILAR) for split in in_splits), alike)


def _ranges(splits: Array) -> list[slice]:
    """The images of each split."""
    bounds = [0, *(np.flatnonzero(splits[1:] != splits[:-1]) + 1).tolist(), len(splits)]
    return [slice(*pair) for pair in pairwise(bounds)]


def _nearest(images: Pooled, split: slice) -> Nearest:
    """The nearest of all images among those of `split`; neither themselves nor their exact duplicates."""
    blocks = [
        reduce(Nearest.merged, (_in_tile(images, rows, columns) for columns in _tiles(split, COLUMNS)))
        for rows in _tiles(slice(0, len(images.units)), ROWS)
    ]
    return Nearest(*(np.concatenate(parts) for parts in zip(*map(astuple, blocks), strict=True)))


def _tiles(whole: slice, size: int) -> list[slice]:
    return [slice(start, min(start + size, whole.stop)) for start in range(whole.start, whole.stop, size)]


def _in_tile(images: Pooled, rows: slice, columns: slice) -> Nearest:
    block: Array = images.units[rows] @ images.units[columns].T
    block[images.contents[rows, None] == images.contents[columns]] = -1
    places = np.arange(len(block))
    closest = block.argmax(1)
    best = block[places, closest]
    block[places, closest] = -1
    return Nearest(columns.start + closest, best, block.max(1))


def _outliers(images: Pooled) -> Iterator[Finding]:
    """Images that are unlike the rest of their class."""
    for label in np.unique(images.labels):
        own = np.flatnonzero(images.labels == label)
        if len(own) < SMALLEST:
            continue
        units = images.units[own]
        similarities = (units * unit_rows(units.sum(0) - units)).sum(1)
        low, high = np.quantile(similarities, (0.25, 0.75))
        for place in np.flatnonzero(similarities < low - FAR * (high - low)).tolist():
            says = f"similarity {similarities[place]:.2f} to the rest of its class"
            yield Finding("outlier", (images.paths[own[place]],), says)


# What an audit found: as a table for the terminal, as warnings of a run, and as audit.json.

# Examples per kind on the terminal.
EXAMPLES = 3
# Whether near duplicates were looked for.
COMPARED, NOT_YET = "compared", "not compared yet"
TOO_MANY = f"not compared (more than {MOST_IMAGES:,} images; data.near_duplicates=true compares them)"


class AuditReport(Callback):
    """The audit of a run: warns about errors, writes audit.json, and looks for near duplicates after training.

    `compares` says whether it does the latter, for which the data module must have features.
    """

    def __init__(self, settings: TrainSettings, data: PreparedData, *, compares: bool) -> None:
        self._path = RunFolder(Path(settings.run_dir)).audit
        self._balance = settings.data.balance
        self._data = data
        self._exceeds_limit = exceeds_comparison_limit(settings, data.manifest)
        self._compares = compares and not self._exceeds_limit
        self._findings: list[Finding] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._compares:
            features = trainer.datamodule.source.unaugmented()  # type: ignore[attr-defined]
            more = find_from_features(self._data.manifest.splits, features, movable_splits(self._data.scan))
            more += missing_groups(self._data.manifest, more)
            log_findings([f for f in in_order(more) if f.severity == "error" or f.kind == MISSING_GROUPS])
            write_audit(self._path, self._data, in_order(self._findings + more), COMPARED)

    def begin(self) -> None:
        """Audits the data, warns about what is wrong with those that are used, and writes audit.json."""
        self._findings = find_problems(self._data)
        removed = {*self._data.manifest.skipped, *self._data.manifest.dropped}
        remaining = [finding for finding in self._findings if finding.remains_without(removed)]
        shown = {MISSING_VALUE} | ({"class imbalance"} if self._balance == "none" else set())
        log_findings([f for f in remaining if f.severity == "error" or f.kind in shown])
        write_audit(self._path, self._data, self._findings, TOO_MANY if self._exceeds_limit else NOT_YET)


def exceeds_comparison_limit(settings: TrainSettings, manifest: Manifest) -> bool:
    """Whether there are more images than are compared with one another unless it is asked for."""
    return settings.data.near_duplicates == "auto" and sum(map(len, manifest.splits.values())) > MOST_IMAGES


def log_findings(findings: list[Finding]) -> None:
    """Warns with one line per kind of finding, with the first example."""
    for kind, group in _by_kind(findings):
        more = f" (and {len(group) - 1} more: see task=audit)" if len(group) > 1 else ""
        log.warning("%s: %s%s", kind, _line(group[0]), more)


def findings_table(findings: list[Finding]) -> str:
    """Returns a table with the severity, the number and some examples of each kind of finding."""
    rows = []
    for kind, group in _by_kind(findings):
        rows.append((group[0].severity, str(len(group)), kind))
        rows += [("", "", f"  {_line(finding)}") for finding in group[:EXAMPLES]]
        if len(group) > EXAMPLES:
            rows.append(("", "", f"  … and {len(group) - EXAMPLES} more"))
    return render_table(("severity", "count", "finding"), rows)


def write_audit(path: Path, data: PreparedData, findings: list[Finding], compared: str) -> None:
    """Writes the findings as JSON, whether near duplicates were looked for, and what the policies removed."""
    scan = data.scan
    counts = Counter((sample.split, sample.class_name) for sample in scan.samples)
    content = {
        "root": named(str(scan.root)),
        "clean": all(finding.severity != "error" for finding in findings),
        "images": {split: {name: counts[split, name] for name in names} for split, names in scan.classes.items()},
        "splits": scan.origins,
        "notes": scan.notes,
        "near_duplicates": compared,
        "skipped": data.manifest.skipped,
        "dropped": data.manifest.dropped,
        "made_by_headstart": [path for path, reason in scan.left_out.items() if reason == MADE],
        "findings": [{"kind": f.kind, "severity": f.severity, "paths": f.paths, "says": f.says} for f in findings],
    }
    if is_first_process():
        write_json(path, content)


def _by_kind(findings: list[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    yield from ((kind, list(group)) for kind, group in groupby(findings, key=lambda finding: finding.kind))


def _line(finding: Finding) -> str:
    where = listed(finding.paths)
    return f"{where}: {finding.says}" if where and finding.says else where or finding.says


# If more than this share of a class is one group, a split of that class has little to choose from.
MOST_OF_A_CLASS = 0.5


def preparation(
    settings: TrainSettings,
    prepare: Callable[..., PreparedData] = prepare_data,
    load: Callable[[], Backbone] | None = None,
) -> Callable[[DataSettings, int], PreparedData]:
    """Returns `prepare`, made to keep near duplicates in one split if `data.group` says so.

    It stays a pure function of images, seed and settings: features that are not stored are computed, and stored for the
    training. Several processes must then call it together.

    Args:
        prepare: `prepare_data` or `inspect_data`.
        load: loads the backbone, which is on the device that trains afterwards; None: as `settings` say.
    """
    if settings.data.group != NEAR_DUPLICATES:
        return prepare
    load = load or partial(load_backbone, settings.model, settings.data, seed=settings.seed)
    return partial(prepare, alike=partial(_find_alike, settings, load))


def _find_alike(settings: TrainSettings, load: Callable[[], Backbone], manifest: Manifest) -> dict[str, str]:
    """A value for each image by path that has near duplicates or copies: the same for all of these."""
    splits = {name: split for name, split in manifest.splits.items() if len(split)}
    if "train" not in splits:
        return manifest.copies
    manifest = replace(manifest, splits=splits)
    by_split = alike_units(manifest, encode_unaugmented(settings, manifest, load()))
    units = np.concatenate([by_split[name] for name in splits])
    labels = [label for split in splits.values() for label in split.labels]
    _warn_about_large(manifest, Counter(zip(units.tolist(), labels, strict=True)))
    return copies_of(manifest, units)


def _warn_about_large(manifest: Manifest, counts: Counter[tuple[int, int]]) -> None:
    """Warns about groups that have most of a class, given the number of images by group and label."""
    totals = Counter[int]()
    for (_, label), count in counts.items():
        totals[label] += count
    for (_, label), count in counts.items():
        if count > max(1, MOST_OF_A_CLASS * totals[label]):
            log.warning(
                "data.group=%s: %d of the %d images of class '%s' look alike, each like another one: they are one "
                "group, which stays in one split unless too few images are left for the others",
                *(NEAR_DUPLICATES, count, totals[label], manifest.classes[label]),
            )
