"""Typed settings, one file per group of conf/. Defaults live in conf/."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_IN_REPOSITORY = _PACKAGE.parents[1] / "conf"
# The repository's conf/, or the copy that an installed package holds.
CONF = _IN_REPOSITORY if (_IN_REPOSITORY / "train.yaml").is_file() else _PACKAGE / "conf"
# Its groups, such as "data"; conf/hydra has options of Hydra's.
GROUPS = tuple(sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra"))


def options_of(group: str, conf: Path = CONF) -> list[str]:
    """Returns the options of a group of conf/, or of another such folder."""
    return sorted(path.stem for path in (conf / group).glob("*.yaml"))
