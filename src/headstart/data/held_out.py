"""Cross-validation: one of several folds of the train and the valid split becomes the valid split."""

from dataclasses import replace

import numpy as np

from headstart.data.folds import Array
from headstart.data.groups import grouped_folds, units_of
from headstart.data.image_info import ImageInfo
from headstart.data.scan import Fold, Sample, Scan
from headstart.errors import HeadstartError

POOL = ("train", "valid")


def hold_out(scan: Scan, infos: dict[str, ImageInfo], fold: Fold) -> Scan:
    """The scan with the images of train and valid in other splits: those of `fold` in valid, all others in train.

    Folds are stratified by class. Copies of an image are in one fold, and so are the images of one group.

    Raises:
        HeadstartError: there are fewer images, or groups, than folds.
    """
    of_pool = sorted((s for s in scan.samples if s.split in POOL), key=lambda s: (s.class_name, s.path))
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
            for sample in (pool if split in POOL else scan.samples)
            if sample.split == split
        ),
        fold=fold,
    )


def _folds(scan: Scan, samples: list[Sample], infos: dict[str, ImageInfo], count: int) -> Array:
    """The fold (N) of each image."""
    paths, contents = [sample.path for sample in samples], [infos[sample.path].sha256 for sample in samples]
    if (found := len(np.unique(units_of(paths, scan.groups or {}, contents)))) < count:
        what = "groups of images" if scan.groups is not None else "different images"
        raise HeadstartError(f"data.folds={count} needs as many {what}: train and valid together have {found}")
    labels = np.unique([sample.class_name for sample in samples], return_inverse=True)[1]
    return grouped_folds(labels, paths, contents, scan.groups, scan.seed, count)
