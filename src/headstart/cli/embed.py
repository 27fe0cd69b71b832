"""`headstart embed`."""

import hydra
from omegaconf import DictConfig

from headstart.cli.errors import exit_on_error
from headstart.cli.main import Program, start
from headstart.cli.programs import conf_folder, use_writable_caches
from headstart.config.predict import EmbedSettings, check_embed


@hydra.main(config_path=str(conf_folder()), config_name="embed")
def _main(config: DictConfig) -> None:
    with exit_on_error():
        settings = check_embed(config)
        use_writable_caches()
        # Imported here because torch takes seconds, and reporting a typo should not.
        from headstart.data.images import allowed_pixels
        from headstart.predict.embed import embed

        with allowed_pixels(settings.data.max_pixels):
            embed(settings)


EMBED = Program(_main, EmbedSettings, "embed")


def run() -> None:
    """Runs the command line in sys.argv."""
    start(EMBED)
