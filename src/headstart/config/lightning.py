"""The settings that Lightning takes: the Trainer's, its callbacks' and loggers', and those of several processes."""

import re
from collections.abc import Callable
from typing import Any

from headstart.config.checks import is_int, parameters_of, suggestion
from headstart.errors import HeadstartError
from headstart.machine import Place, place_in_job
from headstart.metrics import METRICS, full_names, metric_of

# conf/trainer, conf/callbacks and conf/logger: arguments of Lightning's classes, checked without importing them.

TRAINER = "pytorch_lightning.trainer.trainer.Trainer"
# Set by headstart itself; most of them have a place of their own in conf/. The test split is scored without a Trainer.
RESERVED = {"callbacks", "logger", "plugins", "default_root_dir", "limit_test_batches"}
RESERVED |= {"use_distributed_sampler", "reload_dataloaders_every_n_epochs"}
# The entries of conf/callbacks and conf/logger.
ENTRIES = {"callbacks": ("early_stopping", "checkpoint"), "logger": ("tensorboard",)}
# Lightning's other precisions change the weights themselves.
PRECISIONS = ("None", "32", "32-true", "bf16-mixed", "16-mixed")
MONITORS = full_names("train", "valid")


def trainer_keys() -> dict[str, str]:
    """Returns the arguments of the Trainer that users can set, sorted by name, with their annotations."""
    return {key: kind for key, kind in (parameters_of(TRAINER) or {}).items() if key not in RESERVED}


def check_trainer(trainer: dict[str, Any]) -> None:
    """Raises HeadstartError for an argument that the Trainer does not have, or that would break a run."""
    known = trainer_keys()
    for key in trainer:
        if key in RESERVED:
            raise HeadstartError(f"trainer.{key} is set by headstart itself and cannot be overridden")
        if known and key not in known:
            others = [f"trainer.{name}" for name in known]
            raise HeadstartError(f"unknown key 'trainer.{key}'{suggestion(f'trainer.{key}', others)}")
    if str(trainer.get("precision")) not in PRECISIONS:
        raise HeadstartError(
            f"trainer.precision={trainer['precision']} is invalid, because it would round the frozen backbone's "
            f"weights: it must be one of {', '.join(PRECISIONS[1:])} (features.precision sets the backbone's)"
        )
    _check_values(trainer)


def check_entries(group: str, entries: dict[str, Any]) -> None:
    """Raises HeadstartError for an entry of conf/callbacks or conf/logger that names no class, or a wrong argument."""
    for name, entry in entries.items():
        # Null removes an entry of conf/; for any other name it is a typo.
        if entry is None and name in ENTRIES[group]:
            continue
        path = f"{group}.{name}"
        if not isinstance(entry, dict) or "_target_" not in entry:
            others = [f"{group}.{other}" for other in ENTRIES[group]]
            raise HeadstartError(
                f"unknown key '{path}'{suggestion(path, others)} (a new entry needs a _target_, the class to create)"
            )
        _check_class(path, str(entry["_target_"]))
        if "monitor" in entry:
            _check_monitor(path, entry)
        known = parameters_of(entry["_target_"])
        for key in entry:
            if known is not None and key not in known.keys() | {"_target_"}:
                others = [f"{path}.{other}" for other in sorted(known)]
                raise HeadstartError(f"unknown key '{path}.{key}'{suggestion(f'{path}.{key}', others)}")


def _check_class(path: str, target: str) -> None:
    """A class of Lightning's that cannot be used is an error, with the reason."""
    name = target.rpartition(".")[2]
    if target.startswith(("pytorch_lightning.", "lightning.")) and name in CALLBACKS:
        raise HeadstartError(f"{path}: Lightning's {name} cannot be used, because {CALLBACKS[name]}")


def _check_monitor(path: str, entry: dict[str, Any]) -> None:
    """A monitor must be a metric, and a mode the direction of that metric."""
    monitor, mode = entry["monitor"], entry.get("mode")
    if monitor not in MONITORS:
        raise HeadstartError(f"{path}.monitor={monitor} is invalid: it must be one of {', '.join(MONITORS)}")
    direction = metric_of(monitor).direction
    if mode not in (None, direction):
        ups = ", ".join(name for name, metric in METRICS.items() if metric.direction == "max")
        raise HeadstartError(
            f"{path}.mode={mode} contradicts {path}.monitor={monitor}, whose mode is {direction} ({ups}: max, "
            "loss: min); leave it out"
        )


def with_modes(callbacks: dict[str, Any]) -> dict[str, Any]:
    """Returns checked `callbacks`, each that monitors a metric with the mode that follows from it."""
    return {name: entry and entry | _mode(entry) for name, entry in callbacks.items()}


def _mode(entry: dict[str, Any]) -> dict[str, str]:
    known = parameters_of(entry["_target_"])
    has_mode = "monitor" in entry and (known is None or "mode" in known)
    return {"mode": metric_of(entry["monitor"]).direction} if has_mode else {}


# What of Lightning cannot be used, and why, and what values its Trainer's arguments take.

# Arguments of the Trainer that no value makes sense of, besides the one given: it changes nothing.
ARGUMENTS: dict[str, tuple[Any, str]] = {
    "enable_checkpointing": (True, "callbacks.checkpoint=null keeps no checkpoints"),
    "barebones": (False, "it would switch off what records a run"),
    "limit_predict_batches": (None, "predictions are made by predict.py, without a Trainer"),
    "model_registry": (None, "only checkpoints of Lightning's own cloud are registered"),
}
# Classes of callbacks, by name.
CALLBACKS = {
    "LearningRateFinder": "a resumed run would have another learning rate; compare several: -m model.lr=1e-2,1e-3",
    "BatchSizeFinder": "a resumed run would have another batch size; set data.batch_size",
    "BackboneFinetuning": "it does not keep BatchNorm's statistics; set finetune=gradual",
    "BaseFinetuning": "it does not keep BatchNorm's statistics; set finetune=gradual",
    "StochasticWeightAveraging": "a run ends with the weights of its best epoch, not with these; set callbacks=ema",
    "EMAWeightAveraging": "it lets frozen weights drift; set callbacks=ema",
    "LambdaCallback": "its functions cannot be written in a configuration",
    "ThroughputMonitor": "its batch_size_fn cannot be written in a configuration",
    "ModelPruning": "its checkpoints have other weights than the classifier",
    "BasePredictionWriter": "predictions are made by predict.py, without a Trainer",
}

Rule = tuple[str, Callable[[Any], bool]]


def _integer(least: int, *others: Any) -> Callable[[Any], bool]:
    return lambda v: v in others or is_int(v, least)


def _is_share(value: Any) -> bool:
    return value is None or is_int(value, least=1) or (isinstance(value, float) and 0 < value <= 1)


_SWITCH: Rule = ("true, false or null", lambda v: v is None or isinstance(v, bool))
# What Lightning would take and then not do as written, or fail at much later. Other values it rejects by itself.
VALUES: dict[str, Rule] = {
    **dict.fromkeys(
        ("min_epochs", "min_steps", "check_val_every_n_epoch"), ("a positive integer, or null", _integer(1, None))
    ),
    # Null is Lightning's own default, and has the same meaning.
    **dict.fromkeys(("max_epochs", "max_steps"), ("a positive integer, or -1 for no limit", _integer(1, -1, None))),
    "accumulate_grad_batches": ("a positive integer", _integer(1)),
    "num_sanity_val_steps": ("a non-negative integer, or -1 for all", _integer(-1, None)),
    "log_every_n_steps": ("a non-negative integer, or null", _integer(0, None)),
    "gradient_clip_val": ("a non-negative number, or null", lambda v: v is None or (_is_number(v) and v >= 0)),
    "limit_train_batches": ("a positive number of batches, or a fraction of them, or null", _is_share),
    "val_check_interval": ("a number of batches, or a fraction of an epoch, or null", _is_share),
    "deterministic": ("true, false, warn or null", lambda v: v == "warn" or _SWITCH[1](v)),
    **dict.fromkeys(("benchmark", "detect_anomaly", "inference_mode", "sync_batchnorm"), _SWITCH),
    **dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_autolog_hparams"), _SWITCH),
}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_values(trainer: dict[str, Any]) -> None:
    for key, value in trainer.items():
        unused, reason = ARGUMENTS.get(key, (value, ""))
        if value != unused and value is not None:
            raise HeadstartError(f"trainer.{key}={value} cannot be used: {reason}")
        says, test = VALUES.get(key, ("", lambda value: True))
        if not test(value):
            raise HeadstartError(f"trainer.{key}={value} is invalid: it must be {says}")


def check_validated(trainer: dict[str, Any], callbacks: dict[str, Any]) -> None:
    """Raises HeadstartError if callbacks wait for validation metrics that no epoch would have."""
    waiting = [name for name, entry in callbacks.items() if str((entry or {}).get("monitor")).startswith("valid/")]
    interval, epochs = trainer.get("check_val_every_n_epoch", 1), trainer.get("max_epochs")
    if not waiting or trainer.get("fast_dev_run"):
        return
    if trainer.get("limit_val_batches") == 0:
        raise HeadstartError(
            f"trainer.limit_val_batches=0 leaves nothing for callbacks.{waiting[0]} to monitor: set "
            + " ".join(f"callbacks.{name}=null" for name in waiting)
        )
    if interval is not None and epochs is not None and 0 < epochs < interval:
        raise HeadstartError(
            f"trainer.check_val_every_n_epoch={interval} is more than trainer.max_epochs={epochs}: no epoch would be "
            "validated"
        )


# How many processes a training has: trainer.devices, trainer.num_nodes and trainer.strategy.

STRATEGIES = re.compile(r"auto|None|single_device|ddp(_find_unused_parameters_(true|false))?")


def with_processes(trainer: dict[str, Any], task: str) -> dict[str, Any]:
    """Returns `trainer` with the `devices` and `num_nodes` that torchrun or SLURM started, or one, unless it trains.

    Raises:
        HeadstartError: several processes would not end as one run.
    """
    strategy, place = str(trainer.get("strategy", "auto")), place_in_job()
    if not STRATEGIES.fullmatch(strategy):
        raise HeadstartError(
            f"trainer.strategy={strategy} cannot be used: there is nothing to divide between devices but the images, "
            "because the backbone is frozen: set trainer.strategy=ddp"
        )
    if task != "train" and place.world_size > 1:
        raise HeadstartError(f"task={task} runs in one process: start it without {place.launcher}")
    if task != "train":
        devices = trainer.get("devices")
        one = devices[:1] if isinstance(devices, list) else 1
        return trainer | {"devices": one, "num_nodes": 1, "strategy": "auto"}
    if place.world_size > 1:
        return _launched(trainer, place)
    if trainer.get("num_nodes", 1) != 1:
        raise HeadstartError(
            f"trainer.num_nodes={trainer['num_nodes']} needs a launcher that starts the program on each node, such as "
            "torchrun or SLURM: without one it would wait for the others for ever"
        )
    return trainer


def _launched(trainer: dict[str, Any], place: Place) -> dict[str, Any]:
    if trainer.get("devices") == "auto":
        trainer = trainer | {"devices": place.local_world_size, "num_nodes": place.nodes}
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    per_node = len(devices) if isinstance(devices, list) else devices
    if str(per_node) != str(place.local_world_size) or nodes != place.nodes:
        raise HeadstartError(
            f"{place.launcher} started {place.local_world_size} processes on each of {place.nodes} machines, but "
            f"trainer.devices={devices} and trainer.num_nodes={nodes}: set trainer=ddp, which takes what was started"
        )
    return trainer
