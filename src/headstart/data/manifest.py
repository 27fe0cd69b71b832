"""The manifest: the images that a run uses, their classes and splits."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.data.folders import left_out_summary, listed
from headstart.data.image_info import ImageInfo
from headstart.data.images import read_rgb
from headstart.data.preprocessing import FULL_DEPTH, Array
from headstart.data.scan import POOL, Fold, Sample, Scan
from headstart.data.splits import SPLITS, grouped_folds, units_of
from headstart.errors import HeadstartError
from headstart.errors import listed as bounded
from headstart.files import write_csv

# What the features of images that corrections add are stored under.
ADDED = "added"


@dataclass(frozen=True)
class Split:
    """The samples of one split in their fixed order.

    `paths` are relative to `root`, `labels` are indices into the class list, `contents` are the files' SHA-256
    ("" where they were not fingerprinted).

    `readings` are the unusual ways in which some of them are read: features are stored by content and by these.

    With folds, the split is a part of a pool, train and valid together; where near duplicates are grouped, of all
    images; with corrections, of what it was before them, and of the images that these add. In all its `pools` in turn,
    its images have the indices `rows`. `stored_as` is the name of a pool.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    contents: tuple[str, ...]
    pools: tuple["Split", ...] = ()
    rows: tuple[int, ...] = ()
    readings: tuple[str, ...] = ()
    stored_as: str = ""

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, depth: int) -> Image.Image:
        """Reads an image, of 16-bit samples the lower `depth` bits, from the bytes that were fingerprinted.

        Raises:
            HeadstartError: the file was changed or removed since, or cannot be read.
        """
        return read_rgb(self.root / self.paths[index], depth, self.contents[index] or None)

    @property
    def stored(self) -> tuple["Split", ...]:
        """The images whose features are stored, together for each pool if there are any."""
        return self.pools or (self,)

    def place(self, index: int) -> int:
        """Returns the index of an image of the split in that of `stored` which it is in."""
        if not self.pools:
            return index
        row = self.rows[index]
        for pool in self.pools:
            if row < len(pool):
                break
            row -= len(pool)
        return row

    def own(self, values: Sequence[Array]) -> Array:
        """Returns the rows (N) of the split, of arrays with one row for each image of each of `stored`."""
        if not self.pools:
            return values[0]
        rows, start = np.array(self.rows, int), 0
        own = np.empty((len(rows), *values[0].shape[1:]), np.result_type(*values))
        for of_pool in values:
            inside = (rows >= start) & (rows < start + len(of_pool))
            own[inside] = of_pool[rows[inside] - start]
            start += len(of_pool)
        return own

    @property
    def uncorrected(self) -> tuple[int, ...]:
        """The labels before corrections."""
        labels = [label for pool in self.pools for label in pool.labels]
        return tuple(labels[row] for row in self.rows) if self.pools else self.labels

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the paths, labels and contents of all samples.

        Contents rather than times, so that a copy of the data has the same fingerprint, and an image that was changed
        without updating its times has another one.
        """
        total = hashlib.sha256()
        for path, label, content in zip(self.paths, self.labels, self.contents, strict=True):
            total.update(f"{path}\0{label}\0{content}\n".encode(errors="surrogateescape"))
        return total.hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The class list, which is the train split's, and the splits: train, valid and optionally test.

    `left_out` are other files in the folder, with the reason unless the name says it; `skipped` and `dropped` are
    images that a policy removed, because they are unreadable or also in another split. `origins` say where each split
    is from, `notes` what the user should know about it. `groups` are those of the paths that have one; `copies` has the
    same value for all copies of an image. Of the samples of 16-bit files, the lower `depth` bits are used.
    """

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, Split]
    left_out: dict[str, str]
    skipped: tuple[str, ...]
    dropped: tuple[str, ...]
    origins: dict[str, str]
    notes: tuple[str, ...]
    groups: dict[str, str] = field(default_factory=dict)
    copies: dict[str, str] = field(default_factory=dict)
    depth: int = FULL_DEPTH

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the class list and the fingerprints of all splits."""
        parts = [*self.classes, *(f"{name}={split.fingerprint}" for name, split in self.splits.items())]
        return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()

    def read(self, path: str, depth: int) -> Image.Image | None:
        """Reads an image of one of the splits, by its path relative to the root; None: it has changed, or is gone."""
        split, index = self._places[path]
        try:
            return split.read(index, depth)
        except HeadstartError:
            return None

    def class_of(self, path: str) -> str:
        """Returns the class of an image of one of the splits, by its path relative to the root."""
        split, index = self._places[path]
        return self.classes[split.labels[index]]

    @cached_property
    def _places(self) -> dict[str, tuple[Split, int]]:
        return {path: (split, index) for split in self.splits.values() for index, path in enumerate(split.paths)}

    @property
    def counts(self) -> dict[str, int]:
        """The number of images in each split."""
        return {name: len(split) for name, split in self.splits.items()}

    @property
    def class_counts(self) -> tuple[int, ...]:
        """The number of images of each class in the train split."""
        counts = Counter(self.splits["train"].labels)
        return tuple(counts[label] for label in range(len(self.classes)))

    @cached_property
    def units(self) -> dict[str, Array]:
        """A number (N) for each image of each split, the same for images of one group and for copies.

        Such images depend on each other: they do not count as several in an interval or a test.
        """
        every = list(self.splits.values())
        paths = [path for split in every for path in split.paths]
        # Files that were not fingerprinted are all different.
        contents = [
            self.copies.get(path, content or path)
            for split in every
            for path, content in zip(split.paths, split.contents, strict=True)
        ]
        ends = np.cumsum([len(split) for split in every])[:-1]
        return dict(zip(self.splits, np.split(units_of(paths, self.groups, contents), ends), strict=True))

    def describe(self) -> str:
        """Returns the classes, images per split, where these are from, and what was left out, in a line or more."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts.items())
        lines = [f"{self.root}: {len(self.classes)} classes, {counts} images", *self.notes]
        if self.left_out:
            lines[0] += f"; {left_out_summary(self.left_out)}"
        for paths, why in ((self.skipped, "unreadable"), (self.dropped, "also in valid or test")):
            lines += [f"left out, {why}: {bounded(paths)}"] if paths else []
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Writes a CSV with a row per sample: path, class, split, and group and uncorrected class if there are any."""
        is_corrected = any(split.labels != split.uncorrected for split in self.splits.values())
        rows = (
            (
                *(sample, self.classes[label], name),
                *([self.groups.get(sample, "")] if self.groups else []),
                *([self.classes[before]] if is_corrected else []),
            )
            for name, split in self.splits.items()
            for sample, label, before in zip(split.paths, split.labels, split.uncorrected, strict=True)
        )
        others = ["group"] * bool(self.groups) + ["uncorrected"] * is_corrected
        write_csv(path, ("path", "class", "split", *others), rows)


def build_manifest(
    scan: Scan, infos: dict[str, ImageInfo], *, skipped: tuple[str, ...], dropped: tuple[str, ...]
) -> Manifest:
    """Returns the manifest of a scan without `skipped` and `dropped`. A class may be missing from a split, or train."""
    every = {name for names in scan.classes.values() for name in names}
    classes = (*scan.classes["train"], *sorted(every - set(scan.classes["train"])))
    labels = {name: label for label, name in enumerate(classes)}
    # A split's classes are in the order of their folders; its samples are in that of the labels.
    samples = sorted(scan.samples, key=lambda sample: labels[sample.class_name])
    removed = {*skipped, *dropped}
    splits = {
        name: _split(scan, [s for s in samples if s.split == name and s.path not in removed], labels, infos)
        for name in scan.classes
    }
    uncorrected = sorted(scan.uncorrected or samples, key=lambda sample: labels[sample.class_name])
    before = [sample for sample in uncorrected if sample.path not in scan.added]
    added = dict.fromkeys(splits, ()) | {"train": _added_pools(scan, uncorrected, labels, infos)}
    if scan.pooled:
        # Also those dropped: which ones these are may depend on the fold.
        pool = [sample for sample in before if sample.split in scan.pooled and sample.path not in {*skipped}]
        pool.sort(key=lambda sample: (labels[sample.class_name], sample.path))
        of_all = replace(_split(scan, pool, labels, infos), stored_as="images" if scan.by_features else "folds")
        splits |= {name: _in_pools(splits[name], of_all, *added[name]) for name in scan.pooled}
    for name in [name for name, split in splits.items() if scan.uncorrected and not split.pools]:
        pool = [sample for sample in before if sample.split == name and sample.path not in removed]
        of_split = replace(_split(scan, pool, labels, infos), stored_as=name)
        splits[name] = _in_pools(splits[name], of_split, *added[name])
    return Manifest(
        scan.root,
        classes,
        splits,
        scan.left_out,
        skipped,
        dropped,
        scan.origins,
        scan.notes,
        groups=scan.groups or {},
        copies=scan.copies,
    )


def _added_pools(
    scan: Scan, samples: list[Sample], labels: dict[str, int], infos: dict[str, ImageInfo]
) -> tuple[Split, ...]:
    """A pool for each batch of images that corrections add: because of a new one, no other image is encoded again."""
    batches: dict[str, list[Sample]] = {}
    for sample in samples:
        if sample.path in scan.added:
            batches.setdefault(scan.added[sample.path], []).append(sample)
    return tuple(replace(_split(scan, batches[name], labels, infos), stored_as=ADDED) for name in sorted(batches))


def _in_pools(split: Split, *pools: Split) -> Split:
    """Returns the split as a part of `pools`."""
    rows = {path: row for row, path in enumerate(path for pool in pools for path in pool.paths)}
    return replace(split, pools=pools, rows=tuple(rows[path] for path in split.paths))


def _split(scan: Scan, samples: list[Sample], labels: dict[str, int], infos: dict[str, ImageInfo]) -> Split:
    return Split(
        scan.root,
        tuple(sample.path for sample in samples),
        tuple(labels[sample.class_name] for sample in samples),
        tuple(infos[sample.path].sha256 for sample in samples),
        readings=tuple(sorted({infos[sample.path].reading for sample in samples} - {""})),
    )


def assign_fold(scan: Scan, infos: dict[str, ImageInfo], fold: Fold) -> Scan:
    """Returns the scan with the images of train and valid assigned anew: those of `fold` to valid, others to train.

    Folds are stratified by class. Copies of an image are in one fold, and so are the images of one group. Images that
    corrections add are in no fold, but always in train.

    Raises:
        HeadstartError: there are fewer images, or groups, than folds.
    """
    added = [sample for sample in scan.samples if sample.path in scan.added]
    drawn = (s for s in scan.samples if s.split in POOL and s.path not in scan.added)
    of_pool = sorted(drawn, key=lambda s: (s.class_name, s.path))
    usable = [sample for sample in of_pool if infos[sample.path].fault is None]
    folds = dict(zip(usable, _folds(scan, usable, infos, fold.count).tolist(), strict=True))
    pool = [s._replace(split="valid" if folds.get(s) == fold.index else "train") for s in of_pool]
    classes = tuple(dict.fromkeys(name for split in POOL for name in scan.classes[split]))
    return replace(
        scan,
        classes=dict.fromkeys(POOL, classes) | {split: c for split, c in scan.classes.items() if split not in POOL},
        samples=tuple(
            sample
            for split in scan.classes
            for sample in ([*pool, *added] if split in POOL else scan.samples)
            if sample.split == split
        ),
        fold=fold,
    )


def _folds(scan: Scan, samples: list[Sample], infos: dict[str, ImageInfo], count: int) -> Array:
    """The fold (N) of each image."""
    paths = [sample.path for sample in samples]
    contents = [scan.copies.get(path, infos[path].sha256) for path in paths]
    if (units := len(np.unique(units_of(paths, scan.groups or {}, contents)))) < count:
        what = "groups of images" if scan.groups is not None else "different images"
        raise HeadstartError(f"data.folds={count} needs as many {what}: train and valid together have {units}")
    labels = np.unique([sample.class_name for sample in samples], return_inverse=True)[1]
    return grouped_folds(labels, paths, contents, scan.groups, scan.seed, count)


def check_trainable(manifest: Manifest, scan: Scan) -> None:
    """Raises HeadstartError, naming the folder, unless there are two classes and each has images in each split."""
    if "valid" in scan.unlabelled:
        raise HeadstartError(
            f"{scan.unlabelled['valid']} has no class folders: put the images of each class into a folder, or move it "
            "elsewhere to validate on a share of train (data.split.valid)"
        )
    expected = set(scan.classes["train"])
    if len(expected) < 2:
        raise HeadstartError(_why_one_class(scan))
    for split, classes in scan.classes.items():
        missing, extra = sorted(expected - set(classes)), sorted(set(classes) - expected)
        for names, verb, other in ((missing, "lacks", "has"), (extra, "has", "lacks")):
            if names:
                what = "the class folders" if scan.csv is None else "the classes"
                raise HeadstartError(
                    f"{scan.place_of(split)} {verb} {what} {listed(names)}, which {scan.place_of('train')} {other}"
                )
    # Only now that all splits are known to have the same class folders.
    for pool in _pools(scan):
        labels = [set(manifest.splits[split].labels) for split in pool]
        empty = [name for label, name in enumerate(manifest.classes) if not all(label in used for used in labels)]
        if empty:
            raise HeadstartError(_why_empty(manifest, scan, pool, empty))


def _why_one_class(scan: Scan) -> str:
    (only,) = scan.classes["train"] or ("none",)
    if scan.csv is not None:
        return f"{scan.place_of('train')} has only one class ({only}): a classifier needs at least two"
    folder = Path(scan.place_of("train"))
    return (
        f"{folder} has only one class ({only}): a classifier needs at least two; if the classes are the folders in "
        f"{folder / only}, they must be one level higher"
    )


def _pools(scan: Scan) -> list[list[str]]:
    """The splits, those together that share class folders."""
    shared = [*scan.drawn]
    return [[split] for split in scan.classes if split not in shared] + ([shared] if shared else [])


def _why_empty(manifest: Manifest, scan: Scan, pool: list[str], empty: list[str]) -> str:
    """Why the classes `empty` have no images in one or more of the splits `pool`."""
    labels = Counter(label for split in pool for label in manifest.splits[split].labels)
    counts = {name: labels[manifest.classes.index(name)] for name in empty}
    name, count = min(counts.items(), key=lambda item: item[1])
    if not count:
        return _why_unused(scan, pool[0], name)
    split = next(s for s in pool if manifest.classes.index(name) not in manifest.splits[s].labels)
    if scan.fold is not None or scan.groups is not None:
        return _why_too_few(manifest, scan, split, name)
    if isinstance(scan.rule.valid, float) and count < len(pool):
        small = listed(f"'{c}' ({number})" for c, number in counts.items() if number < len(pool))
        without_test = ", or do without test: data.split.train=0.85 data.split.valid=0.15"
        return (
            f"too few images for each of {listed(pool)} to get one, in class {small}: add images, or remove the class"
            f"{' folder' if scan.csv is None else ''}{without_test if count > 1 and len(pool) == len(SPLITS) else ''}"
        )
    if isinstance(scan.rule.valid, float):
        return (
            f"none of the {count} usable images of class '{name}' is in the {split} split: repair or remove those that "
            "are not usable, or draw another split with another seed"
        )
    train = f"data.split.train={scan.rule.train} " if not scan.given else ""
    return (
        f"{train}data.split.valid={scan.rule.valid} leave{'' if train else 's'} none of the {count} "
        f"image{'s' if count > 1 else ''} of class '{name}' for the {split} split: choose other counts, or fractions "
        f"such as {'data.split.train=0.7 ' if train else ''}data.split.valid=0.15"
    )


def _why_unused(scan: Scan, split: str, name: str) -> str:
    if scan.csv is not None:
        return f"{scan.place_of(split)} names no usable image of class '{name}'"
    return f"the class folder {Path(scan.place_of(split)) / name} holds no usable images"


def _why_too_few(manifest: Manifest, scan: Scan, split: str, name: str) -> str:
    """Why a class has no image in a split that was drawn by fold, or by group."""
    label = manifest.classes.index(name)
    drawn = [of for of in manifest.splits if of in POOL or of not in scan.given]
    paths = [
        path
        for of in map(manifest.splits.__getitem__, drawn)
        for path, own in zip(of.paths, of.labels, strict=True)
        if own == label
    ]
    groups = f" in {len({manifest.groups.get(path, path) for path in paths})} groups" if manifest.groups else ""
    fewer = f", or choose a smaller data.folds than {scan.fold.count}" if scan.fold is not None else ""
    return (
        f"none of the {len(paths)} images{groups} of class '{name}' is in the {split} split, because each split needs "
        f"one of its own: add images{' of other groups' if groups else ''}{fewer}"
    )
