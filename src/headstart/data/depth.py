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


def deep_samples(infos: "Mapping[str, ImageInfo]") -> dict[str, Samples]:
    """The samples of those that are 16-bit files, by path."""
    return {
        path: Samples(info.highest, info.usual)
        for path, info in infos.items()
        if info.highest is not None and info.usual is not None
    }


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
    deep, odd = deep_samples(infos), {}
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


def other_depth(found: Mapping[str, Samples], depth: int) -> str | None:
    """Why 16-bit files, by their names, do not suit a classifier that reads `depth` bits; None: they do.

    A file that uses fewer bits may be dark: so only a large difference counts, or one of many files.
    """
    bits = {name: bits_of(*samples) for name, samples in found.items()}
    brighter = [name for name in bits if bits[name] > depth]
    darker = [name for name in bits if bits[name] <= depth - FAR]
    if len(bits) >= MANY and not brighter and (used_depth(found.values()) or depth) < depth:
        darker = list(bits)
    if not brighter and not darker:
        return None
    names, than, effect = (
        (brighter, f"more than the {depth} bits", "they are clipped")
        if brighter
        else (darker, f"only {max(bits[name] for name in darker)} of the {depth} bits", "they are seen too dark")
    )
    return (
        f"{len(names)} of {counted(len(bits), '16-bit image')} with {than} that the classifier reads, such as "
        f"{names[0]}: {effect}; scale their samples as those of the training images"
    )
