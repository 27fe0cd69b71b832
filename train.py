"""Trains or tests an image classifier: python train.py --help."""

import sys

import hydra
from omegaconf import DictConfig

from headstart.cli.cleanup import is_multirun
from headstart.cli.environment import use_writable_caches
from headstart.cli.errors import exit_on_error
from headstart.cli.main import HYDRA_TARGETS, start
from headstart.config.train import TrainSettings, check_train


@hydra.main(config_path="conf", config_name="train", execution_whitelist=HYDRA_TARGETS)
def main(config: DictConfig) -> float | None:
    # Imported here because torch and Lightning take seconds, and reporting a typo should not.
    if is_multirun():
        use_writable_caches()
        from headstart.sweep.trial import run_trial

        return run_trial(config)
    with exit_on_error():
        settings = check_train(config)
        use_writable_caches()
        from headstart.preflight import check_without_data
        from headstart.tasks import TASKS

        result = TASKS[settings.task](check_without_data(settings))
    if not result:
        sys.exit(1)
    return None


if __name__ == "__main__":
    start(main, TrainSettings, trains=True)
