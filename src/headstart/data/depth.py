"""How many bits the samples of 16-bit files really have; cameras and scanners often fill only the lower 12."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from headstart.data.pixels import FULL_DEPTH, bits_of
from headstart.text import counted

if TYPE_CHECKING:
    # It imports PyTorch, which exported models are used without.
    from headstart.data.image_info import ImageInfo

# Of many images, this share (or one of ten) may use far more bits than the others without deciding for all.
OUTVOTED, MANY = 0.02, 10
# Bits by which an image is so much brighter, or darker, than the others that it is from another source.
FAR = 4
# If fewer 16-bit files than this fraction have 8-bit ones among them, those are the odd ones.
EIGHT_BITS_ARE_RARE = 0.1


class Samples(NamedTuple):
    """The highest sample of a 16-bit file, and the highest one but for a few pixels."""

    highest: int
    usual: int


def deep_samples(infos: "Iterable[ImageInfo]") -> list[Samples]:
    """The samples of those that are 16-bit files."""
    return [Samples(info.highest, info.usual) for info in infos if info.highest is not None and info.usual is not None]


def used_depth(found: Iterable[Samples]) -> int | None:
    """The least of DEPTHS that has the samples of all 16-bit files, but for a few far brighter ones; None: no files."""
    bits = sorted(bits_of(*samples) for samples in found)
    if not bits:
        return None
    few = max(1, int(OUTVOTED * len(bits))) if len(bits) >= MANY else 0
    most, usual = bits[-1], bits[-1 - few]
    return most if most - usual < FAR else usual


def chosen_depth(found: Iterable[Samples], setting: int | str) -> int:
    """What `data.depth` stands for: as one for all files, because what is dark in one of them must stay so."""
    return (used_depth(found) or FULL_DEPTH) if setting == "auto" else int(setting)


def odd_depths(infos: "Mapping[str, ImageInfo]", depth: int) -> dict[str, str]:
    """Of the images by path that stand out when they are read with `depth`, why."""
    deep = {path: samples for path, info in infos.items() for samples in deep_samples([info])}
    odd = {}
    for path, samples in deep.items():
        if samples.highest >= 2**depth:
            share = f"{infos[path].clipped:.1%}" if infos[path].clipped >= 0.001 else "less than 0.1 %"
            odd[path] = f"samples up to {samples.highest:,}: {share} of it is too bright for {depth} bits and clipped"
        elif (bits := bits_of(*samples)) <= depth - FAR:
            odd[path] = f"it uses only {bits} of the {depth} bits that are read: from another source, or almost black"
    plain = [path for path in infos if path not in deep]
    if len(plain) < EIGHT_BITS_ARE_RARE * len(infos):
        odd |= dict.fromkeys(plain, "8 bits per sample, among images with 16")
    return odd


def other_depth(found: list[Samples], depth: int) -> str | None:
    """Why 16-bit files do not suit a classifier that reads `depth` bits; None: they do.

    Of a few files, only a large difference says something: they may be dark.
    """
    used = used_depth(found)
    if used is None or used == depth or (used > depth - FAR and used < depth and len(found) < MANY):
        return None
    effect = "brighter samples are clipped" if used > depth else "they are seen darker than it was trained"
    return (
        f"{counted(len(found), 'image')} with 16 bits per sample, of which {used} are used, but the classifier reads "
        f"{depth} bits as in its training images: {effect}; scale the samples as those of the training images"
    )
