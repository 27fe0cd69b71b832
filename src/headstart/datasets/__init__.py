"""Datasets that headstart downloads or generates on first use."""

from headstart.config.data import CaltechSettings, DataSettings, ShapesSettings


def make_dataset(settings: DataSettings, seed: int) -> None:
    """Creates the folder `settings.root` unless it exists or is the user's own. `seed` is of splits by fractions.

    Raises:
        HeadstartError: it could not be created.
    """
    if isinstance(settings, CaltechSettings):
        from headstart.datasets.caltech256 import make_caltech

        make_caltech(settings, seed)
    elif isinstance(settings, ShapesSettings):
        from headstart.datasets.shapes import make_shapes

        make_shapes(settings, seed)
