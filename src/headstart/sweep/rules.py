"""What a sweep cannot be of."""

from typing import Any

from headstart.errors import HeadstartError
from headstart.settings import OBJECTIVES, TrainSettings

ALONE = ("auto", "single_device", "None")


def check_trial(settings: TrainSettings) -> None:
    """Raises HeadstartError for what cannot be a trial."""
    check_comparison(settings.task, settings.sweep.objective)
    check_one_process(settings.trainer)
    if settings.ckpt_path is not None:
        raise HeadstartError("ckpt_path cannot be given to a sweep (-m): its trials begin anew")


def check_comparison(task: str, objective: str) -> None:
    """Raises HeadstartError for runs that have nothing to be compared by."""
    if task != "train":
        raise HeadstartError(f"task={task} cannot be swept (-m): only trainings can be compared")
    if objective not in OBJECTIVES:
        raise HeadstartError(f"sweep.objective={objective} cannot work: it must be one of {', '.join(OBJECTIVES)}")


def check_one_process(trainer: dict[str, Any]) -> None:
    """Raises HeadstartError where Lightning would start further processes."""
    why = (
        "cannot work in a sweep (-m): each process that Lightning starts would run the whole sweep again by itself, "
        "with other trials; use trainer.devices=1, and run trials at once by hydra/launcher=joblib"
    )
    if str(trainer.get("strategy", "auto")) not in ALONE:
        raise HeadstartError(f"trainer.strategy={trainer['strategy']} {why}")
    devices = trainer.get("devices", 1)
    if str(devices) != "1" and not (isinstance(devices, list) and len(devices) == 1):
        raise HeadstartError(f"trainer.devices={devices} {why}")
    if trainer.get("num_nodes", 1) != 1:
        raise HeadstartError(f"trainer.num_nodes={trainer['num_nodes']} {why}")
