"""Names the classes of new pictures: python predict.py --help."""

import hydra
from omegaconf import DictConfig

from headstart import cli
from headstart.settings import PredictSettings, check_predict


@hydra.main(config_path="conf", config_name="predict")
def main(config: DictConfig) -> None:
    with cli.one_sentence():
        settings = check_predict(config)
        # Imported here because torch takes seconds, and a misspelt key should not.
        from headstart.predict.run import predict

        predict(settings)


if __name__ == "__main__":
    cli.start(main, PredictSettings, trains=False)
