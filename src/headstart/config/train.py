"""All settings of train.py, their check as a whole, and config.yaml, the one record of a run's settings."""

import functools
import os
import re
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, TypeVar, get_type_hints

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from headstart.config.checks import non_negative_int, one_of, path_field, suggestion, violations
from headstart.config.data import DATASETS, FOLD, NEAR_DUPLICATES, NO_CORRECTIONS, DataSettings
from headstart.config.lightning import (
    check_entries,
    check_trainer,
    check_validated,
    trainer_keys,
    with_modes,
    with_processes,
)
from headstart.config.model import (
    AUTO,
    BUNDLED,
    CLOSED_FORM,
    DEFAULT,
    MEAN,
    AugmentSettings,
    EvaluationSettings,
    ExportSettings,
    FeatureSettings,
    FinetuneSettings,
    LabelSettings,
    ModelSettings,
    ReviewSettings,
    SweepSettings,
    has_photo_features,
)
from headstart.errors import HeadstartError
from headstart.log import log
from headstart.machine import place_in_job
from headstart.run_folder import RunFolder, newest_run
from headstart.text import is_url, named

# From Hydra's DictConfig to typed settings.

Settings = TypeVar("Settings")


def typed(schema: type[Settings], config: DictConfig, **parts: type) -> Settings:
    """Returns `config` as an object of `schema`, with `parts` in place of the schema's own types for some keys.

    Raises:
        HeadstartError: names the unknown key, or the invalid value.
    """
    try:
        expected = _expected(schema, tuple(parts.items()))  # type: ignore[arg-type]
        settings: Any = OmegaConf.to_object(OmegaConf.merge(expected, config))
    except ConfigKeyError as error:
        raise unknown_key(str(error.full_key), schema) from None
    except ValidationError as error:
        key = str(error.full_key)
        value = OmegaConf.select(config, key)
        if "ListConfig" in str(error) and isinstance(value, str | int | float):
            raise HeadstartError(f"{key}={value} is invalid: it must be a list, such as {key}=[{value}]") from None
        raise HeadstartError(f"{key} is invalid: {_first_line(error)}") from None
    except OmegaConfBaseException as error:
        raise HeadstartError(_first_line(error)) from None
    for sentence in violations(settings):
        raise HeadstartError(sentence)
    return settings


@functools.cache
def _expected(schema: Hashable, parts: tuple[tuple[str, type], ...]) -> DictConfig:
    """Returns what a config is merged into; made once, because each trial of a sweep has its config checked."""
    expected: DictConfig = OmegaConf.structured(schema)
    # That of frozen dataclasses cannot be changed.
    OmegaConf.set_readonly(expected, False)
    for key, part in parts:
        expected[key] = OmegaConf.structured(part)
    return expected


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def unknown_key(key: str, schema: type) -> HeadstartError:
    """Returns the sentence for a key that `schema` does not have, with the nearest one that it has."""
    known = known_keys(schema)
    if key in known:
        return HeadstartError(f"the key '{key}' has no meaning with this choice of {key.partition('.')[0]}=")
    return HeadstartError(f"unknown key '{key}'{suggestion(key, known)}")


def known_keys(schema: type) -> list[str]:
    """Returns the keys of `schema`, whatever is chosen with data=."""
    return list(_keys_of(schema))


def switches(schema: type) -> set[str]:
    """Returns the keys of `schema` that may be true or false."""
    return {key for key, (kind, _) in _keys_of(schema).items() if "bool" in str(kind)}


def keys_with(form: Literal["path", "text"], *schemas: type) -> set[str]:
    """Returns the keys of the schemas whose values are paths, or texts that may have any characters."""
    return {key for schema in schemas for key, (_, of) in _fields_of(schema).items() if of == form}


def _keys_of(schema: type) -> dict[str, tuple[Any, str]]:
    keys: dict[str, tuple[Any, str]] = {}
    for key, value in _fields_of(schema).items():
        if key == "trainer":
            keys |= {f"trainer.{name}": (kind, "") for name, kind in trainer_keys().items()}
        else:
            keys[key] = value
    return keys


@functools.cache
def _fields_of(schema: type) -> dict[str, tuple[Any, str]]:
    """Returns the keys of `schema`, each with its type and its form: "path", "text" or ""."""
    forms = {item.name: item.metadata.get("form", "") for item in fields(schema)}
    keys: dict[str, tuple[Any, str]] = {}
    for name, kind in get_type_hints(schema).items():
        if not is_dataclass(kind):
            keys[name] = kind, forms[name]
            continue
        for part in DATASETS.values() if kind is DataSettings else [kind]:
            keys |= {f"{name}.{key}": value for key, value in _fields_of(part).items()}  # type: ignore[arg-type]
    return keys


# The settings of train.py, and their check as a whole.

TASKS = ("train", "test", "report", "review", "label", "demo", "audit", "compare", "export")
# Tasks that use a checkpoint as it is.
EVALUATING = ("test", "report", "review", "label", "demo", "export")
# Those of them that have no run folder of their own.
INTO_RUN = ("report", "review", "label", "demo", "export")
# Those of them that take nothing but the checkpoint, which may be an ensemble.
WITHOUT_DATA = ("demo", "export")
# What of the trainer closed-form heads ignore: they have one epoch, with no steps of an optimizer.
TRAINER: dict[str, Any] = {
    "max_epochs": 1,
    "min_epochs": None,
    "max_steps": -1,
    "min_steps": None,
    "max_time": None,
    "check_val_every_n_epoch": 1,
    "val_check_interval": None,
    "accumulate_grad_batches": 1,
    "gradient_clip_val": None,
    "precision": "32-true",
}
AVERAGES = ("EMA", "WeightAveraging")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All settings; `trainer`, `callbacks` and `logger` hold arguments of Lightning's classes."""

    data: DataSettings
    model: ModelSettings
    finetune: FinetuneSettings
    features: FeatureSettings
    trainer: dict[str, Any]
    callbacks: dict[str, Any]
    logger: dict[str, Any]
    sweep: SweepSettings
    run_dir: str
    ckpt_path: str | None = path_field()
    task: str = one_of(*TASKS)
    report: str = one_of("full", "none")
    seed: int = non_negative_int()
    evaluation: EvaluationSettings
    augment: AugmentSettings
    export: ExportSettings
    # Runs that were recorded before they were there have none.
    review: ReviewSettings = field(default_factory=lambda: ReviewSettings(browser=True))
    label: LabelSettings = field(default_factory=lambda: LabelSettings(source=None, count=50, serve=True))

    @property
    def finds_near_duplicates(self) -> bool:
        """Whether a training compares images by their features."""
        wanted = self.data.near_duplicates is not False and not self.trainer.get("fast_dev_run")
        return wanted and self.can_compare

    @property
    def can_compare(self) -> bool:
        """Whether features show which images are alike, which takes a frozen backbone trained on photographs."""
        is_able = self.finetune.first_epoch is None and has_photo_features(self.model.weights)
        return is_able and self.features.cache


def check_train(config: DictConfig) -> TrainSettings:
    """Returns the settings of `train.py`, checked and completed.

    Raises:
        HeadstartError: names the unknown key, or the invalid value.
    """
    maker = OmegaConf.select(config, "data.maker")
    if maker not in DATASETS:
        raise HeadstartError(f"data.maker={maker} is invalid: choose one of the files of conf/data with data=NAME")
    # Typed settings have a default for it.
    if OmegaConf.is_missing(config.data, "csv"):
        raise HeadstartError("data.csv is missing: set it with data.csv=FILE")
    settings = typed(TrainSettings, config, data=DATASETS[maker])
    for part in (settings.data, settings.finetune, settings.augment):
        part.check()
    check_trainer(settings.trainer)
    trainer = with_processes(settings.trainer, settings.task)
    settings = replace(settings, trainer=trainer)
    if settings.model.head in (*CLOSED_FORM, MEAN, AUTO):
        _check_closed_form(settings, trainer)
        settings = with_head(settings, settings.model.head)
    _check_finetuning(settings)
    check_entries("callbacks", settings.callbacks)
    check_entries("logger", settings.logger)
    check_validated(settings.trainer, settings.callbacks)
    if settings.task in EVALUATING and settings.ckpt_path is None:
        raise HeadstartError(f"task={settings.task} needs {newest_run()}")
    if settings.task == "export":
        settings.export.check()
    if settings.task == "label" and settings.label.source is None:
        raise HeadstartError("label.source is missing: the images without labels, label.source=FILE|DIR|GLOB")
    _check_comparison(settings)
    _check_grouping(settings)
    return replace(settings, callbacks=with_modes(settings.callbacks))


def with_head(settings: TrainSettings, head: str) -> TrainSettings:
    """Returns the settings with this value of `model.head`, and what a head that is fitted at once rules."""
    trainer = settings.trainer | (TRAINER if head in CLOSED_FORM else {})
    return replace(settings, model=replace(settings.model, head=head), trainer=trainer)


def _check_closed_form(settings: TrainSettings, trainer: dict[str, Any]) -> None:
    """Raises HeadstartError for what a closed-form head rules out, also as a part of mean or a choice of auto."""
    head, balance = settings.model.head, settings.data.balance
    if head == AUTO and not settings.features.cache:
        raise HeadstartError("model.head=auto needs features.cache=true: it compares heads on stored features")
    if settings.finetune.first_epoch is not None:
        raise HeadstartError(
            f"model.head={head} needs finetune=none, because closed-form heads are computed from the features "
            "of a frozen backbone: set model.head=mlp or linear to train the backbone too"
        )
    if balance != "none":
        raise HeadstartError(
            f"data.balance={balance} is invalid with model.head={head}, because closed-form heads have no training "
            "steps to weight: set data.balance=none, or model.head=mlp or linear"
        )
    for name, entry in settings.callbacks.items():
        if str((entry or {}).get("_target_")).rpartition(".")[2] in AVERAGES:
            raise HeadstartError(
                f"callbacks.{name} is invalid with model.head={head}, because closed-form heads have no weights "
                f"to average: set callbacks=default or callbacks.{name}=null"
            )
    several = _several_processes(trainer)
    for key, instead in (("devices", 1), ("num_nodes", 1), ("strategy", "auto")):
        if several[key]:
            raise HeadstartError(
                f"trainer.{key}={trainer.get(key)} is invalid with model.head={head}, which is fitted in one process: "
                f"set trainer.{key}={instead}"
            )


def _several_processes(trainer: Mapping[str, Any]) -> dict[str, bool]:
    """Returns which of the Trainer's arguments ask for several processes."""
    devices = trainer.get("devices", "auto")
    return {
        "strategy": str(trainer.get("strategy", "auto")) not in ("auto", "single_device", "None"),
        "devices": str(devices) != "1" and not (isinstance(devices, list | ListConfig) and len(devices) == 1),
        "num_nodes": trainer.get("num_nodes", 1) != 1,
    }


def check_sweep(config: DictConfig) -> None:
    """Raises HeadstartError, with the reason, if the trials of `config` could not be run or compared."""
    if (place := place_in_job()).world_size > 1:
        raise HeadstartError(f"a sweep (-m) runs in one process: start it without {place.launcher}")
    if config.task != "train":
        raise HeadstartError(f"task={config.task} cannot be swept (-m): only training runs can be compared")
    if config.ckpt_path is not None:
        raise HeadstartError("ckpt_path cannot be combined with a sweep (-m): trials start from scratch")
    for sentence in violations(SweepSettings([], [], config.sweep.objective, config.sweep.ensemble), "sweep."):
        raise HeadstartError(sentence)
    for key in config.sweep.over:
        if key.startswith("sweep."):
            raise HeadstartError(f"{key} cannot have several values: it belongs to the sweep as a whole")
    if config.callbacks.get("checkpoint") is None or config.trainer.get("fast_dev_run"):
        raise HeadstartError(
            "a sweep (-m) needs callbacks.checkpoint, to keep the best trial, and no trainer.fast_dev_run"
        )
    if FOLD in config.sweep.over and config.data.folds is None and "data.folds" not in config.sweep.over:
        raise HeadstartError(f"{FOLD} has several values, but how many folds there are is not set: add data.folds=5")
    for key in (key for key, is_several in _several_processes(config.trainer).items() if is_several):
        raise HeadstartError(
            f"trainer.{key}={config.trainer.get(key)} cannot be used in a sweep (-m), because each trial runs in one "
            "process: set trainer.devices=1, and run trials in parallel with hydra/launcher=joblib"
        )


def _check_comparison(settings: TrainSettings) -> None:
    if settings.task != "compare":
        if settings.model.archs is not None:
            raise HeadstartError("model.archs is for task=compare: set model.arch, or sweep over it with -m")
        return
    if not settings.model.archs:
        raise HeadstartError("task=compare needs model.archs=[ARCH,ARCH@WEIGHTS,…], such as [resnet50,mobilenet_v2]")
    if not settings.features.cache or settings.finetune.first_epoch is not None:
        raise HeadstartError("task=compare needs features.cache=true and finetune=none: it compares frozen features")


def _check_grouping(settings: TrainSettings) -> None:
    """Raises HeadstartError if images are to be grouped by their features, but there are none, or several of each."""
    if settings.data.group != NEAR_DUPLICATES:
        return
    if not settings.can_compare:
        raise HeadstartError(
            f"data.group={NEAR_DUPLICATES} needs features.cache=true, finetune=none, and model.weights other than null "
            "and bundled, because it compares features of photographs"
        )
    if settings.task == "compare":
        raise HeadstartError(
            f"data.group={NEAR_DUPLICATES} is invalid with task=compare, because each backbone would find other groups"
        )


def _check_finetuning(settings: TrainSettings) -> None:
    """Raises HeadstartError for what a backbone that is trained rules out."""
    first_epoch = settings.finetune.first_epoch
    if first_epoch is None:
        return
    if settings.features.cache and first_epoch == 0:
        raise HeadstartError(
            "features.cache=true has no effect when the backbone is trained from the first epoch, because its features "
            "change with every step: set features.cache=false, or unfreeze it later, as finetune=gradual does"
        )
    if settings.data.batch_size == 1:
        raise HeadstartError("data.batch_size=1 is invalid with finetune: BatchNorm needs batches of two or more")
    last_epoch, epochs = settings.finetune.last_epoch or 0, settings.trainer.get("max_epochs")
    if settings.task == "train" and epochs is not None and 0 <= epochs <= last_epoch:
        log.warning(
            "trainer.max_epochs=%d ends before every stage in finetune is unfrozen: the last one would be in epoch %d",
            *(epochs, last_epoch + 1),
        )


# config.yaml, the one record of a run's settings: what the run writes is what resuming, testing and reporting read.


def literal_text(text: str) -> str:
    """Returns what OmegaConf reads as exactly this text, with interpolations escaped."""
    # Backslashes escape only in front of an interpolation.
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def plain_text(written: str) -> str:
    """Returns the inverse of `literal_text`."""
    return re.sub(r"(?<!\\)((?:\\\\)*)\\\$\{", lambda escaped: escaped[1][::2] + "${", written)


def literals(values: Any) -> Any:
    """Returns plain values with `literal_text` of each string."""
    if isinstance(values, dict):
        return {key: literals(value) for key, value in values.items()}
    if isinstance(values, list):
        return [literals(value) for value in values]
    return literal_text(values) if isinstance(values, str) else values


# Paths that a run reads, which must not depend on the folder that a program is started in.
PATHS = sorted(keys_with("path", TrainSettings) - {"ckpt_path", "export.path", "label.source"})
# How Hydra calls a section of a run's settings: this, and the option of conf/ which it was made from.
OF_RUN = "_run_"
# What reading a file that somebody has changed may raise.
DAMAGED = (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, AttributeError, KeyError, TypeError)


def record_of(settings: TrainSettings) -> str:
    """Returns the text of config.yaml: all settings, resolved, with absolute paths."""
    values = asdict(settings)
    _replace_paths(values, lambda key, path: path if is_url(path) else os.path.abspath(os.path.expanduser(path)))
    values["ckpt_path"] = values["ckpt_path"] and named(os.path.abspath(values["ckpt_path"]))
    return OmegaConf.to_yaml(OmegaConf.create(literals(values)))


def choices() -> dict[str, str | None]:
    """Returns the options of the groups of conf/ that a run which a program has started was composed from."""
    # Imported here because predictors do without Hydra.
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return {}
    chosen = HydraConfig.get().runtime.choices
    return {
        group: (option and option.removeprefix(OF_RUN)) or None for group, option in chosen.items() if "/" not in group
    }


def read_record(run: RunFolder) -> DictConfig:
    """Returns the settings in a run's config.yaml, as Hydra would have composed them.

    Where a path is gone and the run's folder was moved, the path that has moved along with it is used.

    Raises:
        HeadstartError: the file is missing or damaged.
    """
    try:
        config = OmegaConf.load(run.config)
        values: Any = OmegaConf.to_container(config)
        # Of runs that were recorded before it was there.
        values["data"] = {"corrections": None, "cache_gb": 20} | values["data"]
        before, now = str(OmegaConf.select(config, "run_dir")), os.path.abspath(run.path)
        _replace_paths(values, lambda key, path: literal_text(_moved(key, plain_text(path), before, now)))
        for entry in values["callbacks"].values():
            # It follows from the metric, which may be given anew.
            if entry is not None and "monitor" in entry:
                entry.pop("mode", None)
        return OmegaConf.create(values)
    except DAMAGED as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is damaged"
        raise HeadstartError(f"the settings of the run, {run.config}, cannot be read: {reason}") from None


def _replace_paths(values: dict[str, Any], replacement: Callable[[str, str], str]) -> None:
    """Replaces, in place, the values that are paths; `replacement` is given the key and the path."""
    for key in PATHS:
        group, _, name = key.partition(".")
        path = values[group].get(name)
        is_name = key == "model.weights" and (path in (DEFAULT, BUNDLED) or not _is_file(path))
        is_name |= key == "data.corrections" and path == NO_CORRECTIONS
        if isinstance(path, str) and not is_name:
            values[group][name] = replacement(key, path)


def _is_file(weights: Any) -> bool:
    """Whether `model.weights` is a file, if perhaps a missing one, rather than the name of published weights."""
    return isinstance(weights, str) and (os.sep in weights or os.path.isfile(os.path.expanduser(weights)))


def _moved(key: str, path: str, before: str, now: str) -> str:
    """`path`, or where it is if it is gone and was moved together with the run's folder, from `before` to `now`."""
    if before == now or not os.path.isabs(path) or os.path.lexists(path):
        return path
    if os.path.dirname(common := os.path.commonpath([os.path.abspath(before), path])) == common:
        # They have only the root of the file system in common, so nothing can have moved both.
        return path
    moved = os.path.normpath(os.path.join(now, os.path.relpath(path, before)))
    if not os.path.lexists(moved):
        return path
    log.info("%s: %s, which was moved together with the run's folder", key, moved)
    return moved
