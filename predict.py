"""Predicts the classes of new images: python predict.py --help."""

import hydra
from omegaconf import DictConfig

from headstart.cli.environment import use_writable_caches
from headstart.cli.errors import exit_on_error
from headstart.cli.main import start
from headstart.config.predict import PredictSettings, check_predict


@hydra.main(config_path="conf", config_name="predict")
def main(config: DictConfig) -> None:
    with exit_on_error():
        settings = check_predict(config)
        use_writable_caches()
        # Imported here because torch takes seconds, and reporting a typo should not.
        from headstart.predict.run import predict

        predict(settings)


if __name__ == "__main__":
    start(main, PredictSettings, trains=False)
