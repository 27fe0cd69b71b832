"""Trains, or tests, a classifier of pictures: python train.py --help."""

import hydra
from omegaconf import DictConfig

from headstart import cli
from headstart.settings import TrainSettings, check_train


@hydra.main(config_path="conf", config_name="train", execution_whitelist=cli.HYDRAS_TARGETS)
def main(config: DictConfig) -> float | None:
    # Imported here because torch and Lightning take seconds, and a misspelt key should not.
    if cli.is_trial():
        from headstart.sweep.trial import run_trial

        return run_trial(config)
    with cli.one_sentence():
        settings = check_train(config)
        from headstart.training.tasks import run_task

        run_task(settings, config)
    return None


if __name__ == "__main__":
    cli.start(main, TrainSettings, trains=True)
