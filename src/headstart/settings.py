"""The settings of the two scripts: their keys, their types, and what values can work. Defaults live in conf/."""

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from headstart.errors import HeadstartError
from headstart.signatures import parameters_of

TRAINER = "pytorch_lightning.trainer.trainer.Trainer"
# What the project itself hands to the Trainer; each has a place of its own in conf/.
NOT_FOR_USERS = {"callbacks", "logger", "plugins", "default_root_dir"}
NOT_FOR_USERS |= {"use_distributed_sampler", "reload_dataloaders_every_n_epochs"}
# What conf/callbacks and conf/logger hold.
ENTRIES = {"callbacks": ("early_stopping", "checkpoint"), "logger": ("tensorboard",)}
# Lightning's other precisions change the weights themselves.
PRECISIONS = ("None", "32", "32-true", "bf16-mixed", "16-mixed")
SCHEDULES = ("constant", "cosine", "onecycle")
OBJECTIVES = ("valid/loss", "valid/acc", "valid/f1")
METRICS = tuple(f"{split}/{metric}" for split in ("train", "valid") for metric in ("loss", "acc", "f1"))


def limited(says: str, test: Callable[[Any], bool]) -> Any:
    """A field whose value must pass `test`; `says` completes the sentence "it must be …"."""
    return field(metadata={"says": says, "test": test})


def positive_int() -> Any:
    return limited("a whole number above 0", lambda v: v > 0)


def one_of(*choices: str) -> Any:
    return limited(f"one of {', '.join(choices)}", lambda v: v in choices)


def worker_count() -> Any:
    return limited("auto or a whole number, 0 or more", lambda v: v == "auto" or _is_int(v, least=0))


def _is_int(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_share(value: Any) -> bool:
    return _is_int(value, least=1) or (isinstance(value, float) and 0 < value < 1)


@dataclass
class SplitSettings:
    """How many pictures of a class go to the train and the valid split: counts or fractions."""

    train: int | float = limited("a count (60) or a fraction (0.7)", _is_share)
    valid: int | float = limited("a count (10) or a fraction (0.15)", _is_share)


@dataclass(kw_only=True)
class DataSettings:
    """A folder of pictures; `maker`, one of MAKERS, makes it where it is not there yet. Null: it is the user's own."""

    maker: str | None
    root: str
    split: SplitSettings
    batch_size: int = positive_int()
    num_workers: int | str = worker_count()
    resize_size: int = positive_int()
    image_size: int = positive_int()
    balance: str = one_of("none", "loss", "sampler")
    on_unreadable: str = one_of("error", "skip")
    on_leak: str = one_of("warn", "error", "drop")
    near_duplicates: bool | str = limited("auto, true or false", lambda v: v == "auto" or isinstance(v, bool))


@dataclass(kw_only=True)
class CaltechSettings(DataSettings):
    """Caltech-256, or some of its categories, made ready from an archive that is downloaded where it is not there."""

    categories: list[str] | None
    clutter: bool
    archive: str | None
    archive_md5: str | None
    url: str


@dataclass(kw_only=True)
class ShapesSettings(DataSettings):
    """Drawn pictures: `per_class` of each of the ten classes, or of those that the bundled backbone was trained on."""

    classes: str = one_of("ten", "pretraining")
    per_class: int = positive_int()
    drawing_seed: int = limited("a whole number, 0 or more", lambda v: v >= 0)


# What `data.maker` can be, and the settings that belong to it.
MAKERS: dict[str | None, type[DataSettings]] = {
    None: DataSettings,
    "caltech": CaltechSettings,
    "shapes": ShapesSettings,
}


@dataclass
class ModelSettings:
    arch: str
    weights: str | None
    hidden_dim: int = positive_int()
    dropout: float = limited("a probability, at least 0 and below 1", lambda v: 0 <= v < 1)
    lr: float = limited("a number above 0", lambda v: 0 < v < float("inf"))
    weight_decay: float = limited("a number, 0 or more", lambda v: 0 <= v < float("inf"))
    label_smoothing: float = limited("a share, at least 0 and below 1", lambda v: 0 <= v < 1)
    schedule: str = one_of(*SCHEDULES)
    warmup: float = limited("a share of the steps, at least 0 and below 1", lambda v: 0 <= v < 1)


@dataclass
class FinetuneSettings:
    """Which stages of the backbone are trained, from the top, from which epoch on and how fast."""

    batch_norm: bool
    epochs: list[int] = limited(  # noqa: RUF009
        "epochs in ascending order, 0 or more", lambda v: v == sorted(v) and all(e >= 0 for e in v)
    )
    lr_factors: list[float] = limited("numbers above 0", lambda v: all(0 < f < float("inf") for f in v))  # noqa: RUF009
    rest: int | None = limited("an epoch, or null", lambda v: v is None or v >= 0)
    rest_lr_factor: float = limited("a number above 0", lambda v: 0 < v < float("inf"))
    mixup: float = limited("a number, 0 or more", lambda v: 0 <= v < float("inf"))
    cutmix: float = limited("a number, 0 or more", lambda v: 0 <= v < float("inf"))

    @property
    def first_epoch(self) -> int | None:
        """From which on the backbone is trained; None: never."""
        return min(self._all_epochs(), default=None)

    @property
    def last_epoch(self) -> int | None:
        """From which on all is trained that is ever to be; None: the backbone never is."""
        return max(self._all_epochs(), default=None)

    def _all_epochs(self) -> list[int]:
        return [*self.epochs, *([] if self.rest is None else [self.rest])]


@dataclass(kw_only=True)
class EncoderSettings:
    """How the frozen backbone is run."""

    precision: str = one_of("auto", "32", "bf16")
    compile: bool | str = limited("auto, true or false", lambda v: v == "auto" or isinstance(v, bool))


@dataclass(kw_only=True)
class FeatureSettings(EncoderSettings):
    """How the frozen backbone is run, and where what it computed is kept."""

    cache: bool
    views: int | None = limited("a whole number above 0, or null", lambda v: v is None or v > 0)
    dir: str | None
    max_gb: float | None = limited("a number above 0, or null", lambda v: v is None or v > 0)


@dataclass
class SweepSettings:
    """What the trials of a sweep are compared by, and the keys that the command line gives several values or one."""

    over: list[str]
    fixed: list[str]
    objective: str = one_of(*OBJECTIVES)


@dataclass
class TrainSettings:
    """Everything of `train.py`. `trainer`, `callbacks` and `logger` are arguments of Lightning's classes."""

    data: DataSettings
    model: ModelSettings
    finetune: FinetuneSettings
    features: FeatureSettings
    trainer: dict[str, Any]
    callbacks: dict[str, Any]
    logger: dict[str, Any]
    sweep: SweepSettings
    run_dir: str
    ckpt_path: str | None
    task: str = one_of("train", "test", "audit")
    seed: int = limited("a whole number, 0 or more", lambda v: v >= 0)


@dataclass
class PredictDataSettings:
    batch_size: int = positive_int()
    num_workers: int | str = worker_count()


@dataclass
class PredictModelSettings:
    weights: str | None


@dataclass
class PredictSettings:
    """Everything of `predict.py`."""

    ckpt_path: str
    source: str
    output: str | None
    annotate: bool
    data: PredictDataSettings
    model: PredictModelSettings
    features: EncoderSettings
    topk: int = positive_int()
    accelerator: str = one_of("auto", "cpu", "cuda", "mps")


Settings = TypeVar("Settings", TrainSettings, PredictSettings)


def check_train(config: DictConfig) -> TrainSettings:
    """The settings of `train.py`.

    Raises:
        HeadstartError: names the unknown key, or the value that cannot work.
    """
    maker = OmegaConf.select(config, "data.maker")
    if maker not in MAKERS:
        raise HeadstartError(f"data.maker={maker} cannot work: it belongs to conf/data, whose files data=NAME chooses")
    settings = _typed(TrainSettings, config, data=MAKERS[maker])
    _check_split(settings.data.split)
    if settings.data.image_size > settings.data.resize_size:
        raise HeadstartError(
            f"data.image_size={settings.data.image_size} cannot be cut from pictures of "
            f"data.resize_size={settings.data.resize_size} pixels"
        )
    _check_finetune(settings)
    _check_trainer(settings.trainer)
    _check_targets("callbacks", settings.callbacks)
    _check_targets("logger", settings.logger)
    if settings.task == "test" and settings.ckpt_path is None:
        raise HeadstartError("task=test needs ckpt_path=RUN/checkpoints/best.ckpt")
    return settings


def check_predict(config: DictConfig) -> PredictSettings:
    """The settings of `predict.py`.

    Raises:
        HeadstartError: names the unknown or missing key, or the value that cannot work.
    """
    for key in ("ckpt_path", "source"):
        if OmegaConf.is_missing(config, key):
            raise HeadstartError(
                f"{key} is missing: python predict.py ckpt_path=RUN/checkpoints/best.ckpt source=FILE|DIR|GLOB"
            )
    settings = _typed(PredictSettings, config)
    if settings.annotate and settings.output is None:
        raise HeadstartError("annotate=true needs a folder for the pictures: output=DIR")
    return settings


def unknown_key(key: str, schema: type) -> HeadstartError:
    """The sentence for a key that `schema` does not know, with the nearest one that it does."""
    known = list(_keys_of(schema))
    if key in known:
        return HeadstartError(f"the key '{key}' means nothing with this choice of {key.partition('.')[0]}=")
    return HeadstartError(f"unknown key '{key}'{_nearest(key, known)}")


def _typed(schema: type[Settings], config: DictConfig, **parts: type) -> Settings:
    """`config` as an object of `schema`, with `parts` in place of what the schema itself says for some keys."""
    try:
        expected = OmegaConf.structured(schema)
        for key, part in parts.items():
            expected[key] = OmegaConf.structured(part)
        merged = OmegaConf.merge(expected, config)
        settings: Settings = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except ConfigKeyError as error:
        raise unknown_key(str(error.full_key), schema) from None
    except ValidationError as error:
        raise HeadstartError(f"{error.full_key} cannot work: {_first_line(error)}") from None
    except OmegaConfBaseException as error:
        raise HeadstartError(_first_line(error)) from None
    _check_limits(settings, prefix="")
    return settings


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _check_limits(settings: Any, prefix: str) -> None:
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            _check_limits(value, f"{prefix}{item.name}.")
        elif "test" in item.metadata and not item.metadata["test"](value):
            raise HeadstartError(f"{prefix}{item.name}={value} cannot work: it must be {item.metadata['says']}")


def _check_split(split: SplitSettings) -> None:
    if isinstance(split.train, int) != isinstance(split.valid, int):
        raise HeadstartError(
            f"data.split.train={split.train} and data.split.valid={split.valid} cannot work together: "
            "give two counts or two fractions"
        )
    # Decimal fractions do not sum exactly: 0.7 + 0.2 + 0.1 is a little less than 1.
    if isinstance(split.train, float) and split.train + split.valid > 1 + 1e-9:
        raise HeadstartError(
            f"data.split.train={split.train} and data.split.valid={split.valid} cannot work: "
            "together they are more than the whole"
        )


def _check_finetune(settings: TrainSettings) -> None:
    finetune = settings.finetune
    if len(finetune.epochs) != len(finetune.lr_factors):
        raise HeadstartError(
            f"finetune.epochs={finetune.epochs} and finetune.lr_factors={finetune.lr_factors} cannot work together: "
            "give each stage that is freed its epoch and its factor"
        )
    if finetune.rest is not None and finetune.rest < max(finetune.epochs, default=0):
        raise HeadstartError(f"finetune.rest={finetune.rest} cannot work: the stages above are freed later than that")
    for key, value in (("mixup", finetune.mixup), ("cutmix", finetune.cutmix)):
        if value and finetune.first_epoch is None:
            raise HeadstartError(
                f"finetune.{key}={value} cannot work while the backbone is frozen: it mixes pictures, and a frozen "
                "backbone's features are kept; choose finetune=full or finetune=gradual"
            )
    if settings.features.cache and finetune.first_epoch == 0:
        raise HeadstartError(
            "features.cache=true cannot work where the backbone is trained from epoch 0, and its features change with "
            "every step: set features.cache=false, or free it later, as finetune=gradual does"
        )
    if finetune.first_epoch is not None and settings.data.batch_size == 1:
        raise HeadstartError(
            "data.batch_size=1 cannot work with finetune: BatchNorm is trained on two pictures or more"
        )
    if finetune.first_epoch is not None and settings.trainer.get("devices") not in (1, "1", [0]):
        raise HeadstartError(
            f"trainer.devices={settings.trainer.get('devices')} cannot work with finetune: stages that are freed later "
            "would not be kept the same on all devices; set trainer.devices=1"
        )


def _check_trainer(trainer: dict[str, Any]) -> None:
    known = _trainer_keys()
    for key in trainer:
        if key in NOT_FOR_USERS:
            raise HeadstartError(f"trainer.{key} is set by the project itself and cannot be given")
        if known and key not in known:
            raise HeadstartError(
                f"unknown key 'trainer.{key}'{_nearest(f'trainer.{key}', [f'trainer.{k}' for k in known])}"
            )
    if str(trainer.get("precision")) not in PRECISIONS:
        raise HeadstartError(
            f"trainer.precision={trainer['precision']} cannot work: it would round the frozen backbone's weights; "
            f"it must be one of {', '.join(PRECISIONS[1:])} (features.precision is the backbone's)"
        )
    epochs = trainer.get("max_epochs")
    if epochs is not None and not (_is_int(epochs, least=1) or epochs == -1):
        raise HeadstartError(
            f"trainer.max_epochs={epochs} cannot work: it must be a whole number above 0, or -1 for no end"
        )


def _trainer_keys() -> list[str]:
    return sorted((parameters_of(TRAINER) or frozenset()) - NOT_FOR_USERS)


def _check_targets(group: str, entries: dict[str, Any]) -> None:
    for name, entry in entries.items():
        # Null does without an entry of conf/; of a name that is not there it is a slip of the pen.
        if entry is None and name in ENTRIES[group]:
            continue
        if not isinstance(entry, dict) or "_target_" not in entry:
            others = [f"{group}.{other}" for other in ENTRIES[group]]
            raise HeadstartError(
                f"unknown key '{group}.{name}'{_nearest(f'{group}.{name}', others)} "
                "(an entry of one's own needs a _target_, the class to make)"
            )
        if "monitor" in entry and entry["monitor"] not in METRICS:
            raise HeadstartError(
                f"{group}.{name}.monitor={entry['monitor']} cannot work: it must be one of {', '.join(METRICS)}"
            )
        known = parameters_of(entry["_target_"])
        for key in entry:
            if known is not None and key not in known | {"_target_"}:
                path = f"{group}.{name}.{key}"
                raise HeadstartError(
                    f"unknown key '{path}'{_nearest(path, [f'{group}.{name}.{k}' for k in sorted(known)])}"
                )


def _keys_of(schema: type, prefix: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(schema).items():
        if name == "trainer":
            yield from (f"trainer.{key}" for key in _trainer_keys())
        elif hint is DataSettings:
            of_makers = (_keys_of(part, "data.") for part in MAKERS.values())
            yield from dict.fromkeys(key for keys in of_makers for key in keys)
        elif is_dataclass(hint):
            yield from _keys_of(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{name}"


def _nearest(key: str, known: list[str]) -> str:
    """The end of the sentence: the known key that was most likely meant, by its last part, or its siblings."""
    group, _, leaf = key.rpartition(".")
    siblings = [name for name in known if name.startswith(f"{group}.")] if group else _first_parts(known)
    for names, cutoff in ((siblings, 0.6), (known, 0.75)):
        by_leaf = {name.rpartition(".")[2]: name for name in reversed(names)}
        matches = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=cutoff)
        if matches:
            return f": did you mean '{by_leaf[matches[0]]}'?"
    return f": known are {', '.join(siblings or _first_parts(known))}"


def _first_parts(keys: list[str]) -> list[str]:
    return list(dict.fromkeys(key.partition(".")[0] for key in keys))
