"""How many bits the samples of 16-bit files really have; cameras and scanners often fill only the lower 12."""

from collections.abc import Iterable

from headstart.data.image_info import ImageInfo
from headstart.data.images import FULL_DEPTH, depth_for


def used_depth(infos: Iterable[ImageInfo]) -> int | None:
    """The least of DEPTHS that has the samples of all 16-bit files; None: there are no such files."""
    highest = max((info.highest for info in infos if info.highest is not None), default=None)
    return None if highest is None else depth_for(highest)


def chosen_depth(infos: Iterable[ImageInfo], setting: int | str) -> int:
    """What `data.depth` stands for: as one for all files, because what is dark in one of them must stay so."""
    return (used_depth(infos) or FULL_DEPTH) if setting == "auto" else int(setting)
