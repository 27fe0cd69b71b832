"""conf/data: the folder of images, how it is labelled, split, read and balanced."""

import re
from dataclasses import dataclass, field
from typing import Any

from headstart.config.checks import (
    auto_or_bool,
    constrained,
    is_int,
    non_negative,
    non_negative_int,
    one_of,
    optional,
    optional_positive_int,
    path_field,
    positive_int,
    text_field,
    workers,
)
from headstart.errors import HeadstartError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic")
RESIZE_MODES = ("crop", "pad", "squash")
# In place of a column's name: the one that is usually called so, if there is one.
AUTO = "auto"
# In place of the file with corrections: none, not even the one beside the images.
NO_CORRECTIONS = "none"
# In place of a column or a pattern of groups: images that look almost the same to the backbone are one.
NEAR_DUPLICATES = "near_duplicates"
# The value of data.layout for a folder of WebDataset's shards.
SHARDS = "shards"
# The key of the fold of a cross-validation, over which a sweep averages.
FOLD = "data.fold"


def _is_share(value: Any) -> bool:
    return is_int(value, least=1) or (isinstance(value, float) and 0 < value < 1)


def _is_encoding(name: str) -> bool:
    try:
        return name == AUTO or isinstance("".encode(name), bytes)
    except (LookupError, ValueError):
        return False


def _per_channel(test: str = "") -> Any:
    return optional(f"three {test}numbers, one per channel", lambda v: len(v) == 3 and (not test or min(v) > 0))


@dataclass(frozen=True)
class SplitSettings:
    """The images per class, counts or fractions, of the train and valid splits where folders do not say it."""

    train: int | float = constrained("a count (60) or a fraction (0.7)", _is_share)
    valid: int | float = constrained("a count (10) or a fraction (0.15)", _is_share)

    @property
    def conflict(self) -> str | None:
        """A sentence if the two values contradict each other."""
        given = f"data.split.train={self.train} and data.split.valid={self.valid}"
        if isinstance(self.train, int) != isinstance(self.valid, int):
            return (
                f"{given} cannot be combined: give two counts or two fractions, such as data.split.train=60 "
                "data.split.valid=10 or data.split.train=0.7 data.split.valid=0.15"
            )
        # Decimal fractions do not sum exactly: 0.7 + 0.2 + 0.1 is a little less than 1.
        too_much = isinstance(self.train, float) and self.train + self.valid > 1 + 1e-9
        return f"{given} add up to more than 1" if too_much else None


@dataclass(frozen=True)
class ColumnSettings:
    """The columns of `data.csv`. `split` may be "auto", the column of that name if there is one, or null, none."""

    path: str = text_field("path")
    label: str = text_field("label")
    split: str | None = text_field(AUTO)


@dataclass(frozen=True, kw_only=True)
class PreprocessingSettings:
    """The keys that say how images become what the network sees; null where the backbone's weights decide."""

    resize_size: int | None = optional_positive_int()
    image_size: int | None = optional_positive_int()
    interpolation: str | None = optional(f"one of {', '.join(INTERPOLATIONS)}", lambda v: v in INTERPOLATIONS)
    mean: list[float] | None = _per_channel()  # noqa: RUF009
    std: list[float] | None = _per_channel("positive ")  # noqa: RUF009
    resize_mode: str | None = optional(f"one of {', '.join(RESIZE_MODES)}", lambda v: v in RESIZE_MODES)


@dataclass(frozen=True, kw_only=True)
class LoadingSettings:
    """The keys that say how a training reads the images of a split."""

    batch_size: int = positive_int()
    num_workers: int | str = workers()
    balance: str = one_of("none", "loss", "sampler")
    near_duplicates: bool | str = auto_or_bool()
    memory_gb: float = non_negative()


@dataclass(frozen=True, kw_only=True)
class DataSettings(PreprocessingSettings, LoadingSettings):
    """A folder of images, or its URL, of whose files at most `cache_gb` are kept.

    `maker`, one of DATASETS, creates it on first use; null: it is the user's own. `layout` says what is in it: folders
    of splits or of classes, or tar shards; auto recognizes which folders, or is an error if it may be either.
    With `csv`, a table says it instead. Images with the same `group` stay in one split: a column of the table, or what
    a regular expression finds in a path; with NEAR_DUPLICATES, images whose features are almost the same. Of `folds`,
    `fold` is the valid split.

    `corrections` is a file with corrected labels; null: corrections.csv beside the images, if there is one.

    Files that match one of the glob patterns `exclude`, by name or, with a "/", by path, are not used. The `csv` is
    decoded by `encoding`; cells that are one of `missing`, in any case, count as empty.

    Which images there are, and in which split, depends on the settings of this class alone, not on inherited ones:
    trials of a sweep that have the same share them.
    """

    maker: str | None
    root: str = path_field()
    cache_gb: float = non_negative()
    layout: str = one_of("auto", "splits", "classes", SHARDS)
    split: SplitSettings
    seed: int = non_negative_int()
    on_unreadable: str = one_of("error", "skip")
    on_leak: str = one_of("warn", "error", "drop")
    depth: int | str = constrained("auto, 8, 10, 12, 14 or 16", lambda v: v in (AUTO, *range(8, 17, 2)))
    max_pixels: int | None = optional_positive_int()
    exclude: list[str]
    corrections: str | None = path_field(None)
    csv: str | None = path_field(None)
    encoding: str = constrained("auto, or an encoding such as cp1252 or gbk", _is_encoding, default=AUTO)
    missing: list[Any] = field(default_factory=list)
    columns: ColumnSettings = field(default_factory=ColumnSettings)
    group: str | None = text_field()
    folds: int | None = optional("an integer of 2 or more", lambda v: v >= 2)
    fold: int | None = optional("a non-negative integer", lambda v: v >= 0)

    def check(self) -> None:
        """Raises HeadstartError where two values contradict each other."""
        # In a folder of the user's own, `split.train` may have no meaning: the scan checks it.
        if self.maker is not None and self.split.conflict is not None:
            raise HeadstartError(self.split.conflict)
        if self.csv is not None and self.layout != AUTO:
            raise HeadstartError(f"data.layout={self.layout} has no effect with data.csv, which says what is where")
        if self.csv is None and self.group is not None:
            _check_pattern(self.group)
        self._check_fold()

    def _check_fold(self) -> None:
        folds, fold = self.folds, self.fold
        if folds is None and fold is not None:
            raise HeadstartError(f"data.fold={fold} needs the number of folds, such as data.folds=5")
        if folds is not None and (fold is None or fold >= folds):
            raise HeadstartError(
                f"data.folds={folds} needs data.fold=0 to {folds - 1}, the one to validate on; "
                f"-m 'data.fold=range({folds})' trains on all of them in turn"
            )


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise HeadstartError(
            f"data.group={pattern} is no regular expression ({error}): without data.csv, it is searched for in the "
            "path of each image"
        ) from None


@dataclass(frozen=True, kw_only=True)
class CaltechSettings(DataSettings):
    """Caltech-256, or some of its categories, from an archive that is downloaded if it is not there."""

    categories: list[str] | None
    archive: str | None = path_field()
    archive_md5: str | None
    url: str


@dataclass(frozen=True, kw_only=True)
class ShapesSettings(DataSettings):
    """Generated images: `per_class` of each of ten classes, or of the classes the bundled backbone was trained on."""

    classes: str = one_of("ten", "pretraining")
    per_class: int = positive_int()
    drawing_seed: int = non_negative_int()


# Values of `data.maker`, and the settings that go with them.
DATASETS: dict[str | None, type[DataSettings]] = {
    None: DataSettings,
    "caltech": CaltechSettings,
    "shapes": ShapesSettings,
}
