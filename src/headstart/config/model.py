"""The settings of the model and of what is done with it: features, fine-tuning, evaluation, export, sweeps."""

import importlib.util
import re
from dataclasses import dataclass
from typing import Any

from headstart.config.checks import (
    auto_or_bool,
    constrained,
    fraction,
    is_int,
    non_negative,
    one_of,
    optional,
    path_field,
    positive_int,
)
from headstart.errors import HeadstartError
from headstart.metrics import full_names

# conf/model: the backbone, the head, and how the head is trained.

# What `model.weights` calls the weights that come with headstart.
BUNDLED = "bundled"
# What it calls those that the architecture's library names first.
DEFAULT = "default"
POOLINGS = ("default", "cls", "avg", "cls+avg")
# Values of `model.head`: those trained step by step, those fitted at once, the mean of mlp and ridge, and the one that
# chooses among them.
TRAINED, CLOSED_FORM, MEAN, AUTO = ("mlp", "linear"), ("ridge", "knn", "logistic"), "mean", "auto"
SCHEDULES = ("constant", "cosine", "onecycle")


@dataclass(frozen=True, kw_only=True)
class BackboneSettings:
    """The keys of conf/model that a backbone depends on."""

    arch: str
    weights: str | None = path_field()
    pooling: str = one_of(*POOLINGS)


@dataclass(frozen=True, kw_only=True)
class ModelSettings(BackboneSettings):
    """The other settings are of the head, and of how it is trained; `archs` are those to compare."""

    hidden_dim: int = positive_int()
    dropout: float = fraction()
    lr: float = constrained("a positive number", lambda v: 0 < v < float("inf"))
    weight_decay: float = non_negative()
    label_smoothing: float = fraction()
    schedule: str = one_of(*SCHEDULES)
    warmup: float = fraction(" of the steps")
    head: str = one_of(*TRAINED, *CLOSED_FORM, MEAN, AUTO)
    archs: list[str] | None


def arch_and_weights(name: str, weights: str | None) -> tuple[str, str | None]:
    """Returns what an entry ARCH or ARCH@WEIGHTS of `model.archs` stands for; ARCH has `weights`."""
    arch, separator, own = name.partition("@")
    if not separator:
        return arch, weights
    return arch, None if own == "null" else own


def has_photo_features(weights: str | None) -> bool:
    """Whether similar features mean similar photographs.

    To random weights all images look alike; to the bundled ones, all of a class.
    """
    return weights not in (None, BUNDLED)


# conf/features: how the frozen backbone runs, and where its features are cached.


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """The keys that say how the frozen backbone runs."""

    precision: str = one_of("auto", "32", "bf16")
    compile: bool | str = auto_or_bool()


@dataclass(frozen=True, kw_only=True)
class FeatureSettings(EncoderSettings):
    cache: bool
    views: int | str | None = constrained(
        f"a positive integer, {AUTO} or null", lambda v: v in (None, AUTO) or (isinstance(v, int) and v > 0)
    )
    dir: str | None = path_field()
    max_gb: float | None = optional("a positive number", lambda v: v > 0)


# conf/finetune: which stages of the backbone are trained, from the top, after how many epochs, and how fast.


@dataclass(frozen=True)
class FinetuneSettings:
    batch_norm: bool
    epochs: list[int] = constrained(  # noqa: RUF009
        "non-negative epochs in ascending order", lambda v: v == sorted(v) and all(e >= 0 for e in v)
    )
    lr_factors: list[float] = constrained("positive numbers", lambda v: all(0 < f < float("inf") for f in v))  # noqa: RUF009
    rest: int | None = optional("a non-negative epoch", lambda v: v >= 0)
    mixup: float = non_negative()
    cutmix: float = non_negative()

    @property
    def first_epoch(self) -> int | None:
        """The number of epochs after which any stage of the backbone is trained; None: it stays frozen."""
        return min(self._all_epochs(), default=None)

    @property
    def last_epoch(self) -> int | None:
        """The number of epochs after which no further stage is unfrozen; None: the backbone stays frozen."""
        return max(self._all_epochs(), default=None)

    @property
    def kind(self) -> str:
        """The kind, "none", "full" or "gradual", whatever the file in conf/finetune is called."""
        if self.first_epoch is None:
            return "none"
        return "full" if self.rest == 0 else "gradual"

    def _all_epochs(self) -> list[int]:
        return [*self.epochs, *([] if self.rest is None else [self.rest])]

    def check(self) -> None:
        """Raises HeadstartError where two values contradict each other."""
        if len(self.epochs) != len(self.lr_factors):
            raise HeadstartError(
                f"finetune.epochs={self.epochs} and finetune.lr_factors={self.lr_factors} must have the same length: "
                "one epoch and one factor for each stage to unfreeze"
            )
        if self.rest is not None and self.rest < max(self.epochs, default=0):
            raise HeadstartError(f"finetune.rest={self.rest} is invalid: the stages above are unfrozen later than that")
        for key, value in (("mixup", self.mixup), ("cutmix", self.cutmix)):
            if value and self.first_epoch is None:
                raise HeadstartError(
                    f"finetune.{key}={value} needs a backbone that is trained, because it mixes images and a frozen "
                    "backbone's features are cached: set finetune=full or finetune=gradual"
                )


# conf/augment: how training images are augmented, as a list of torchvision's v2 transforms.

# What a _target_ may be. A resumed run repeats the overrides it finds in a folder, which may be somebody else's.
TARGET = re.compile(r"torchvision\.transforms\.v2\.[A-Z]\w*")
# What conf/augment/recipe.yaml says.
RECIPE: list[Any] = [
    {
        "_target_": "torchvision.transforms.v2.RandomResizedCrop",
        "size": "resize_size",
        "scale": [0.8, 1.0],
        "interpolation": "interpolation",
    },
    {"_target_": "torchvision.transforms.v2.RandomRotation", "degrees": 15},
    {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip"},
    {"_target_": "torchvision.transforms.v2.CenterCrop", "size": "image_size"},
]


@dataclass(frozen=True)
class AugmentSettings:
    """The augmentation: each of `transforms` has its class as `_target_`, and its arguments; none: as in evaluation."""

    transforms: list[Any]

    def check(self) -> None:
        """Raises HeadstartError for an entry that is no transform."""
        for number, entry in enumerate(self.transforms):
            _check_entry(entry, f"augment.transforms[{number}]")


def _check_entry(entry: Any, place: str) -> None:
    if not isinstance(entry, dict) or "_target_" not in entry:
        raise HeadstartError(f"{place}={entry} has no class: write it as _target_: torchvision.transforms.v2.NAME")
    if not TARGET.fullmatch(str(entry["_target_"])):
        raise HeadstartError(
            f"{place}._target_={entry['_target_']} is not one of torchvision's v2 transforms: write it as "
            "torchvision.transforms.v2.NAME"
        )
    for key, value in entry.items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                _check_entry(inner, f"{place}.{key}")


@dataclass(frozen=True)
class EvaluationSettings:
    """The section `evaluation`: what the valid and the test split are predicted from after the training."""

    views: int = positive_int()


@dataclass(frozen=True)
class ReviewSettings:
    """The section `review`: whether task=review and task=demo open their page in a browser."""

    browser: bool


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """The section `label`: of which images task=label chooses `count` to label next, and whether it serves a page."""

    source: Any = path_field()  # noqa: RUF009 (or a glob, or a list of them)
    count: int = positive_int()
    serve: bool


# The section `export`: what task=export writes.

FORMATS = ("onnx", "pt2")
# A checkpoint with the backbone's weights, for headstart itself, and the suffix of each format's files.
BUNDLE = "bundle"
SUFFIXES = {"onnx": ".onnx", "pt2": ".pt2", BUNDLE: ".ckpt"}
PRECISIONS = ("float32", "float16", "int8")
# "model": a batch of images of the network's size; "any": one image of any size.
INPUTS = ("model", "any")
# What writing ONNX takes.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Values of keys that are for ONNX alone.
ONNX_ONLY = {"precision": PRECISIONS[1:], "input": INPUTS[1:]}


@dataclass(frozen=True)
class ExportSettings:
    """The keys that say what is exported: to which format, "all" meaning those of other runtimes, and to which file.

    `path` null is a file in the run's folder. `precision` is that of the weights and of the backbone's computation.
    """

    format: str = one_of(*FORMATS, BUNDLE, "all")
    precision: str = one_of(*PRECISIONS)
    input: str = one_of(*INPUTS)
    path: str | None = path_field()

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats to write."""
        return FORMATS if self.format == "all" else (self.format,)

    def check(self) -> None:
        """Raises HeadstartError where two values contradict each other, or a package is missing."""
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if "onnx" in self.formats and missing:
            raise HeadstartError(
                f"export.format={self.format} needs {' and '.join(missing)}, not installed: python -m pip install "
                '-e ".[export]"'
            )
        for key, values in ONNX_ONLY.items():
            if (value := getattr(self, key)) in values and self.format != "onnx":
                raise HeadstartError(f"export.{key}={value} needs export.format=onnx")
        if self.path is None:
            return
        if self.format == "all":
            raise HeadstartError("export.path names one file: set export.format=onnx, pt2 or bundle")
        if not self.path.lower().endswith(suffix := SUFFIXES[self.format]):
            raise HeadstartError(f"export.path={self.path} must end in {suffix}, as export.format={self.format}")


def is_model_file(path: str) -> bool:
    """Whether it is an exported model, by its name."""
    return path.lower().endswith(tuple(f".{name}" for name in FORMATS))


# conf/sweep: what the trials of a sweep are compared by, which keys it varies, and how many trials are averaged.


@dataclass(frozen=True)
class SweepSettings:
    """The keys of conf/sweep; `over` are the keys given several values on the command line, `fixed` those given one."""

    over: list[str]
    fixed: list[str]
    objective: str = one_of(*full_names("valid"))
    ensemble: int = constrained("0, for none, or an integer of 2 or more", lambda v: v == 0 or is_int(v, least=2))
