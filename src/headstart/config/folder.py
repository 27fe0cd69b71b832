"""Where conf/ is."""

from pathlib import Path

import headstart

PACKAGE = Path(headstart.__file__).resolve().parent


def conf_folder() -> Path:
    """The repository's, or the copy that an installed package holds."""
    in_repository = PACKAGE.parents[1] / "conf"
    return in_repository if (in_repository / "train.yaml").is_file() else PACKAGE / "conf"
