"""conf/trainer, conf/callbacks and conf/logger: arguments of Lightning's classes, checked without importing them."""

from typing import Any

from headstart.config.lightning import check_callback, check_values
from headstart.config.signatures import parameters_of
from headstart.config.suggest import suggestion
from headstart.errors import HeadstartError
from headstart.metrics import METRICS, full_names, metric_of

TRAINER = "pytorch_lightning.trainer.trainer.Trainer"
# Set by headstart itself; most of them have a place of their own in conf/. The test split is scored without a Trainer.
RESERVED = {"callbacks", "logger", "plugins", "default_root_dir", "limit_test_batches"}
RESERVED |= {"use_distributed_sampler", "reload_dataloaders_every_n_epochs"}
# The entries of conf/callbacks and conf/logger.
ENTRIES = {"callbacks": ("early_stopping", "checkpoint"), "logger": ("tensorboard",)}
# Lightning's other precisions change the weights themselves.
PRECISIONS = ("None", "32", "32-true", "bf16-mixed", "16-mixed")
MONITORS = full_names("train", "valid")


def trainer_keys() -> list[str]:
    """The arguments of the Trainer that users can set."""
    return sorted((parameters_of(TRAINER) or frozenset()) - RESERVED)


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
    check_values(trainer)


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
        check_callback(path, str(entry["_target_"]))
        known = parameters_of(entry["_target_"])
        if "monitor" in entry:
            _check_monitor(path, entry)
            if known is None or "mode" in known:
                entry["mode"] = metric_of(entry["monitor"]).direction
        for key in entry:
            if known is not None and key not in known | {"_target_"}:
                others = [f"{path}.{other}" for other in sorted(known)]
                raise HeadstartError(f"unknown key '{path}.{key}'{suggestion(f'{path}.{key}', others)}")


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
