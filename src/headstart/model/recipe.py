"""Defines the recipe: everything that a classifier is made from besides its weights."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from headstart.backbones.backbone import Backbone, BackboneSource
from headstart.config.model import CLOSED_FORM, FinetuneSettings
from headstart.config.train import TrainSettings
from headstart.data.manifest import Manifest
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError, listed
from headstart.log import log

# A resumed run may train on changed data, and the weights file may have moved.
MAY_CHANGE = ("backbone", "data_fingerprint", "class_counts")
# What the optimizer of a resumed run may continue with, as other values.
RATES = ("lr", "weight_decay")
# The settings that a recipe's fields are from; of the others they are those of the model, by the same names.
SETTINGS = {
    "backbone arch": "model.arch",
    "backbone pooling": "model.pooling",
    "seed": "seed",
    "precision": "features.precision",
    "balance": "data.balance",
}
GROUPS = {"preprocessing": "data", "finetune": "finetune"}
OF_MODEL = ("head", "hidden_dim", "dropout", "lr", "weight_decay", "label_smoothing", "schedule", "warmup")


@dataclass(frozen=True)
class Recipe:
    """Holds everything that a classifier is made from besides its weights. A checkpoint has it as plain values.

    `precision` is the setting that the features were computed with: auto, 32 or bf16. `balance` is what is done about
    class imbalance (none, loss, sampler); `class_counts` are the images per class in the train split. Of `head` ridge
    and knn, nothing from `hidden_dim` to `weight_decay` applies.
    """

    classes: tuple[str, ...]
    backbone: BackboneSource
    preprocessing: Preprocessing
    head: str
    hidden_dim: int
    dropout: float
    lr: float
    weight_decay: float
    seed: int
    data_fingerprint: str
    precision: str
    balance: str
    class_counts: tuple[int, ...]
    label_smoothing: float
    schedule: str
    warmup: float
    finetune: FinetuneSettings

    @property
    def is_closed_form(self) -> bool:
        """Whether the head is computed in closed form instead of trained."""
        return self.head in CLOSED_FORM

    def as_dict(self) -> dict[str, Any]:
        """Returns numbers, strings, lists and dicts, so that a checkpoint loads with `weights_only=True`."""
        plain = asdict(self)
        lists = {"classes": list(self.classes), "class_counts": list(self.class_counts)}
        return plain | lists | {"preprocessing": self.preprocessing.as_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        """Returns the recipe of which `as_dict` gives `values`."""
        return cls(
            **values
            | {
                "classes": tuple(values["classes"]),
                "class_counts": tuple(values["class_counts"]),
                "finetune": FinetuneSettings(**values["finetune"]),
                "backbone": BackboneSource(**values["backbone"]),
                "preprocessing": Preprocessing(**values["preprocessing"]),
            }
        )

    def check_resumable(self, saved: dict[str, Any]) -> None:
        """Raises HeadstartError for what differs from the recipe `saved` in a checkpoint, and may not.

        MAY_CHANGE and RATES may.
        """
        check_unchanged(_comparable(saved), _comparable(self.as_dict()))


def check_unchanged(saved: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises HeadstartError, with the setting, for the first of the `given` fields of a recipe that is not as `saved`.

    Fields that are not among the `saved` ones, and RATES, are not compared.
    """
    for field, value in given.items():
        if field in saved and field not in RATES and saved[field] != value:
            raise HeadstartError(_difference(field, saved[field], value))


def _difference(field: str, saved: Any, value: Any) -> str:
    if field == "classes":
        return f"the data have other classes than the checkpoint: its {field} {_differing(saved, value)}"
    if field == "backbone sha256":
        return (
            f"the weights of the backbone are not those of the checkpoint, whose SHA-256 is {saved}, not {value}: "
            "set model.weights to those it was trained with"
        )
    key = SETTINGS.get(field, f"model.{field}")
    if field in GROUPS:
        inner = next(name for name in value | saved if value.get(name) != saved.get(name))
        key, saved, value = f"{GROUPS[field]}.{inner}", saved.get(inner), value.get(inner)
    return (
        f"{key}={value} cannot be set for a resumed run, whose checkpoint has {saved}: leave it out, or train a new "
        "run, without ckpt_path"
    )


def recipe_of(settings: TrainSettings, backbone: Backbone, manifest: Manifest) -> Recipe:
    """Returns the recipe of a new classifier."""
    return Recipe(
        classes=manifest.classes,
        backbone=backbone.source,
        preprocessing=replace(backbone.preprocessing, depth=manifest.depth),
        seed=settings.seed,
        data_fingerprint=manifest.fingerprint,
        precision=settings.features.precision,
        balance=settings.data.balance,
        class_counts=manifest.class_counts,
        finetune=settings.finetune,
        **{name: getattr(settings.model, name) for name in OF_MODEL},
    )


def warn_about_other_data(trained_on: str, fingerprint: str) -> None:
    """Warns if a checkpoint was trained on other data than those with this fingerprint."""
    if trained_on != fingerprint:
        log.warning(
            "the checkpoint was trained on other data: these have changed, or are split differently, and the test "
            "split may contain images it was trained on"
        )


def _differing(saved: Any, value: Any) -> str:
    """Returns "is 1, not 2" or, for lists such as the classes, what one of them lacks."""
    if not isinstance(saved, list) or not isinstance(value, list):
        return f"is {saved}, not {value}"
    lost, new = [name for name in saved if name not in set(value)], [name for name in value if name not in set(saved)]
    if not lost and not new:
        return f"are in another order: {listed(saved)}, not {listed(value)}"
    return " and ".join([f"have {listed(lost)}"] * bool(lost) + [f"lack {listed(new)}"] * bool(new))


def _comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    backbone = {f"backbone {key}": recipe["backbone"][key] for key in ("arch", "sha256", "pooling")}
    return backbone | {key: value for key, value in recipe.items() if key not in MAY_CHANGE}
