"""data.group=near_duplicates: images that look almost the same to the backbone stay in one split."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from headstart.auditing.report import alike_units, copies_of
from headstart.backbones.backbone import Backbone, load_backbone
from headstart.config.data import NEAR_DUPLICATES, DataSettings
from headstart.config.train import TrainSettings
from headstart.data.manifest import Manifest
from headstart.data.prepare import PreparedData, prepare_data
from headstart.features.source import encode_unaugmented
from headstart.log import log

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
