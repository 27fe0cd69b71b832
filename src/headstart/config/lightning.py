"""What of Lightning cannot be used, and why, and what values its Trainer's arguments take."""

from collections.abc import Callable
from typing import Any

from headstart.config.constraints import is_int
from headstart.errors import HeadstartError

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
_COUNT: Rule = ("a positive integer, or null", lambda v: v is None or is_int(v, least=1))
_STEPS: Rule = ("a positive integer, or -1 for no limit", lambda v: v == -1 or is_int(v, least=1))
_NUMBER: Rule = ("a non-negative number, or null", lambda v: v is None or (_is_number(v) and v >= 0))
_SHARE: Rule = (
    "a positive number of batches, or a fraction of them, or null",
    lambda v: v is None or is_int(v, least=1) or (isinstance(v, float) and 0 < v <= 1),
)
_PART: Rule = (
    "a number of batches, or a fraction of them, or null",
    lambda v: v is None or is_int(v, least=0) or (isinstance(v, float) and 0 <= v <= 1),
)
_SWITCH: Rule = ("true, false or null", lambda v: v is None or isinstance(v, bool))
VALUES: dict[str, Rule] = {
    **dict.fromkeys(("min_epochs", "min_steps", "check_val_every_n_epoch"), _COUNT),
    **dict.fromkeys(("max_epochs", "max_steps"), _STEPS),
    "accumulate_grad_batches": ("a positive integer", lambda v: is_int(v, least=1)),
    "num_sanity_val_steps": ("a non-negative integer, or -1 for all", lambda v: v is None or is_int(v, least=-1)),
    "log_every_n_steps": ("a non-negative integer, or null", lambda v: v is None or is_int(v, least=0)),
    "gradient_clip_val": _NUMBER,
    "limit_train_batches": _SHARE,
    "limit_val_batches": _PART,
    "overfit_batches": _PART,
    "val_check_interval": ("a number of batches, or a fraction of an epoch, or null", _SHARE[1]),
    "deterministic": ("true, false, warn or null", lambda v: v == "warn" or _SWITCH[1](v)),
    **dict.fromkeys(("benchmark", "detect_anomaly", "inference_mode", "sync_batchnorm"), _SWITCH),
    **dict.fromkeys(("enable_progress_bar", "enable_model_summary", "enable_autolog_hparams"), _SWITCH),
    "num_nodes": ("a positive integer", lambda v: is_int(v, least=1)),
}


def check_values(trainer: dict[str, Any]) -> None:
    """Raises HeadstartError for an argument with a value that it does not take, or that cannot be used."""
    for key, value in trainer.items():
        unused, reason = ARGUMENTS.get(key, (value, ""))
        if value != unused and value is not None:
            raise HeadstartError(f"trainer.{key}={value} cannot be used: {reason}")
        says, test = VALUES.get(key, ("", lambda value: True))
        # max_epochs=null is Lightning's own default, and has the same meaning.
        if not test(value) and not (value is None and key in ("max_epochs", "max_steps")):
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


def check_callback(path: str, target: str) -> None:
    """Raises HeadstartError, with the reason, for a callback that cannot be used as the entry `path`."""
    name = target.rpartition(".")[2]
    if target.startswith(("pytorch_lightning.", "lightning.")) and name in CALLBACKS:
        raise HeadstartError(f"{path}: Lightning's {name} cannot be used, because {CALLBACKS[name]}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
