"""Trains, or tests, a classifier of pictures: python train.py --help."""

import hydra
from omegaconf import DictConfig

from headstart import cli
from headstart.settings import TrainSettings, check_train

cli.register_resolvers()


@hydra.main(config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    with cli.one_sentence():
        settings = check_train(config)
        # Imported here because torch and Lightning take seconds, and a misspelt key should not.
        from headstart.training.tasks import run_task

        return run_task(settings, config)


if __name__ == "__main__":
    cli.start(main, TrainSettings, resumes=True)
