"""The datasets that headstart creates on first use."""

from collections.abc import Callable
from typing import Any

from headstart.config.data import CaltechSettings, DataSettings, ShapesSettings
from headstart.datasets.caltech256 import make_caltech
from headstart.datasets.shapes import make_shapes

# By the type of their settings, which `data.maker` selects.
MAKERS: dict[type[DataSettings], Callable[[Any, int], None]] = {
    CaltechSettings: make_caltech,
    ShapesSettings: make_shapes,
}


def make_dataset(settings: DataSettings, seed: int) -> None:
    """Creates the folder `settings.root` unless it exists or is the user's own. `seed` is of splits by fractions.

    Raises:
        HeadstartError: it could not be created.
    """
    maker = MAKERS.get(type(settings))
    if maker is not None:
        maker(settings, seed)
