"""What cannot be a sweep."""

from omegaconf import DictConfig, ListConfig

from headstart.errors import HeadstartError
from headstart.settings import OBJECTIVES

ALONE = ("auto", "single_device", "None")


def check_sweep(config: DictConfig) -> None:
    """Raises HeadstartError, with the reason, where the trials of `config` could not be run or compared."""
    if config.task != "train":
        raise HeadstartError(f"task={config.task} cannot be swept (-m): only trainings can be compared")
    if config.ckpt_path is not None:
        raise HeadstartError("ckpt_path cannot be given to a sweep (-m): its trials begin anew")
    objective = config.sweep.objective
    if objective not in OBJECTIVES:
        raise HeadstartError(f"sweep.objective={objective} cannot work: it must be one of {', '.join(OBJECTIVES)}")
    for key in config.sweep.over:
        if key.startswith("sweep."):
            raise HeadstartError(f"{key} cannot have several values: it is what the trials are compared by")
    if config.callbacks.get("checkpoint") is None or config.trainer.get("fast_dev_run"):
        raise HeadstartError(
            "a sweep (-m) needs callbacks.checkpoint, and no trainer.fast_dev_run: it is there to keep the best trial"
        )
    _check_one_process(config.trainer)


def _check_one_process(trainer: DictConfig) -> None:
    why = (
        "cannot work in a sweep (-m): each process that Lightning starts would run the whole sweep again by itself, "
        "with other trials; use trainer.devices=1, and run trials at once by hydra/launcher=joblib"
    )
    if str(trainer.get("strategy", "auto")) not in ALONE:
        raise HeadstartError(f"trainer.strategy={trainer.strategy} {why}")
    devices = trainer.get("devices", 1)
    if str(devices) != "1" and not (isinstance(devices, ListConfig) and len(devices) == 1):
        raise HeadstartError(f"trainer.devices={devices} {why}")
    if trainer.get("num_nodes", 1) != 1:
        raise HeadstartError(f"trainer.num_nodes={trainer.num_nodes} {why}")
