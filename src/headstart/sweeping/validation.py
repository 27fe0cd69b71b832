"""Which commands cannot be a sweep."""

from omegaconf import DictConfig, ListConfig

from headstart.config.sweep import ENSEMBLE, OBJECTIVES, is_ensemble_size
from headstart.errors import HeadstartError
from headstart.launchers import place_in_job
from headstart.sweeping.folds import FOLD

SINGLE_PROCESS = ("auto", "single_device", "None")


def check_sweep(config: DictConfig) -> None:
    """Raises HeadstartError, with the reason, if the trials of `config` could not be run or compared."""
    if (place := place_in_job()).world_size > 1:
        raise HeadstartError(f"a sweep (-m) runs in one process: start it without {place.launcher}")
    if config.task != "train":
        raise HeadstartError(f"task={config.task} cannot be swept (-m): only training runs can be compared")
    if config.ckpt_path is not None:
        raise HeadstartError("ckpt_path cannot be combined with a sweep (-m): trials start from scratch")
    objective = config.sweep.objective
    if objective not in OBJECTIVES:
        raise HeadstartError(f"sweep.objective={objective} is invalid: it must be one of {', '.join(OBJECTIVES)}")
    for key in config.sweep.over:
        if key.startswith("sweep."):
            raise HeadstartError(f"{key} cannot have several values: it belongs to the sweep as a whole")
    if not is_ensemble_size(config.sweep.ensemble):
        raise HeadstartError(f"sweep.ensemble={config.sweep.ensemble} is invalid: it must be {ENSEMBLE}")
    if config.callbacks.get("checkpoint") is None or config.trainer.get("fast_dev_run"):
        raise HeadstartError(
            "a sweep (-m) needs callbacks.checkpoint, to keep the best trial, and no trainer.fast_dev_run"
        )
    if FOLD in config.sweep.over and config.data.folds is None and "data.folds" not in config.sweep.over:
        raise HeadstartError(f"{FOLD} has several values, but how many folds there are is not set: add data.folds=5")
    _check_single_process(config.trainer)


def _check_single_process(trainer: DictConfig) -> None:
    why = (
        "cannot be used in a sweep (-m), because each trial runs in one process: "
        "set trainer.devices=1, and run trials in parallel with hydra/launcher=joblib"
    )
    if str(trainer.get("strategy", "auto")) not in SINGLE_PROCESS:
        raise HeadstartError(f"trainer.strategy={trainer.strategy} {why}")
    devices = trainer.get("devices", 1)
    if str(devices) != "1" and not (isinstance(devices, ListConfig) and len(devices) == 1):
        raise HeadstartError(f"trainer.devices={devices} {why}")
    if trainer.get("num_nodes", 1) != 1:
        raise HeadstartError(f"trainer.num_nodes={trainer.num_nodes} {why}")
