"""What `model.head=ridge` and `knn` rule out, because they are fitted at once, and what of the trainer they ignore."""

from typing import TYPE_CHECKING, Any

from headstart.errors import HeadstartError

if TYPE_CHECKING:
    from headstart.config.train import TrainSettings

# One epoch, with no steps of an optimizer, whatever the settings say for heads that are trained.
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


def check_closed_form(settings: "TrainSettings") -> None:
    """Raises HeadstartError for what needs training steps, or several processes."""
    head, balance, trainer = settings.model.head, settings.data.balance, settings.trainer
    if settings.finetune.first_epoch is not None:
        raise HeadstartError(
            f"model.head={head} needs finetune=none, because it is fitted at once to the features of a frozen "
            "backbone: set model.head=mlp or linear to train the backbone too"
        )
    if balance != "none":
        raise HeadstartError(
            f"data.balance={balance} is invalid with model.head={head}, which has no training steps to weight: set "
            "data.balance=none, or model.head=mlp or linear"
        )
    for name, entry in settings.callbacks.items():
        if str((entry or {}).get("_target_")).rpartition(".")[2] in AVERAGES:
            raise HeadstartError(
                f"callbacks.{name} is invalid with model.head={head}, which is fitted at once and has no weights to "
                f"average: set callbacks=default or callbacks.{name}=null"
            )
    devices = trainer.get("devices")
    if devices not in (1, "1") and not (isinstance(devices, list) and len(devices) == 1):
        raise _several("devices", devices, 1, head)
    if trainer.get("num_nodes", 1) != 1:
        raise _several("num_nodes", trainer["num_nodes"], 1, head)
    if str(trainer.get("strategy", "auto")).startswith("ddp"):
        raise _several("strategy", trainer["strategy"], "auto", head)


def _several(key: str, value: Any, instead: Any, head: str) -> HeadstartError:
    return HeadstartError(
        f"trainer.{key}={value} is invalid with model.head={head}, which is fitted at once in one process: set "
        f"trainer.{key}={instead}"
    )
