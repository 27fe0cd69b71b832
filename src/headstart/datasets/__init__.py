"""Datasets that headstart downloads or generates on first use."""

from collections.abc import Callable
from dataclasses import replace

from headstart.config.data import CaltechSettings, DataSettings, ShapesSettings
from headstart.data.prepare import PreparedData, prepare_data
from headstart.data.storage import local


def open_data(
    settings: DataSettings, prepare: Callable[[DataSettings, int], PreparedData] = prepare_data
) -> PreparedData:
    """Returns the images in the folder `settings.root`, which is created first if it is a dataset of headstart's.

    It and `settings.csv` may be remote: see headstart.data.storage.

    Args:
        prepare: `prepare_data`, for what can be trained on, or `inspect_data`, for every usable image.

    Raises:
        HeadstartError: the dataset could not be created, or as `prepare`.
    """
    if isinstance(settings, CaltechSettings):
        from headstart.datasets.caltech256 import make_caltech

        make_caltech(settings, settings.seed)
    elif isinstance(settings, ShapesSettings):
        from headstart.datasets.shapes import make_shapes

        make_shapes(settings, settings.seed)
    table = settings.csv and str(local(settings.csv, settings.cache_gb))
    settings = replace(settings, root=str(local(settings.root, settings.cache_gb)), csv=table)
    return prepare(settings, settings.seed)
