"""How many processes a training has: trainer.devices, trainer.num_nodes and trainer.strategy."""

import re
from typing import Any

from headstart.errors import HeadstartError
from headstart.launchers import Place, place_in_job

STRATEGIES = re.compile(r"auto|None|single_device|ddp(_find_unused_parameters_(true|false))?")


def check_processes(trainer: dict[str, Any], task: str) -> None:
    """Sets `devices` and `num_nodes` to what torchrun or SLURM started; to one process, if `task` is not to train.

    Raises:
        HeadstartError: several processes would not end as one run.
    """
    strategy, place = str(trainer.get("strategy", "auto")), place_in_job()
    if not STRATEGIES.fullmatch(strategy):
        raise HeadstartError(
            f"trainer.strategy={strategy} cannot be used: there is nothing to divide between devices but the images, "
            "because the backbone is frozen: set trainer.strategy=ddp"
        )
    if task != "train":
        _use_one_process(trainer, task, place)
    elif place.world_size > 1:
        _use_launched(trainer, place)
    elif trainer.get("num_nodes", 1) != 1:
        raise HeadstartError(
            f"trainer.num_nodes={trainer['num_nodes']} needs a launcher that starts the program on each node, such as "
            "torchrun or SLURM: without one it would wait for the others for ever"
        )


def _use_one_process(trainer: dict[str, Any], task: str, place: Place) -> None:
    if place.world_size > 1:
        raise HeadstartError(f"task={task} runs in one process: start it without {place.launcher}")
    devices = trainer.get("devices")
    trainer |= {"devices": devices[:1] if isinstance(devices, list) else 1, "num_nodes": 1, "strategy": "auto"}


def _use_launched(trainer: dict[str, Any], place: Place) -> None:
    if trainer.get("devices") == "auto":
        trainer |= {"devices": place.local_world_size, "num_nodes": place.nodes}
    devices, nodes = trainer.get("devices"), trainer.get("num_nodes", 1)
    per_node = len(devices) if isinstance(devices, list) else devices
    if str(per_node) != str(place.local_world_size) or nodes != place.nodes:
        raise HeadstartError(
            f"{place.launcher} started {place.local_world_size} processes on each of {place.nodes} machines, but "
            f"trainer.devices={devices} and trainer.num_nodes={nodes}: set trainer=ddp, which takes what was started"
        )
