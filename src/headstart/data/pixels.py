"""How the samples of any image become eight bits per channel: bit depth, sign, polarity and transparency."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

# How many bits the samples of a 16-bit file may have.
DEPTHS = (8, 10, 12, 14, 16)
FULL_DEPTH = 16
# A defective sensor pixel has an extreme value in every image. So few pixels never decide how an image is read: this
# share of them, or this many of a small image, but never more than one in a hundred.
RARE, FEW = 0.001, 4
# If no pixel is more opaque than this, of 255, the fourth channel is not transparency: nothing of the image would show.
OPAQUE = 32
# Of TIFF: what 0 means, and the value for white; and whether samples have a sign, and the value for yes.
PHOTOMETRIC, WHITE_IS_ZERO, SAMPLE_FORMAT, SIGNED = 262, 0, 339, 2
# … and whether channels are stored one after the other.
BITS, COMPRESSION, RAW, PLANAR, SEPARATE = 258, 259, 1, 284, 2
UNSIGNED = "convert it to 8 or 16 bits without a sign, so that 0 is black"
Array = np.ndarray[Any, np.dtype[Any]]


def to_rgb(image: Image.Image, depth: int = FULL_DEPTH) -> Image.Image:
    """Converts a loaded image to RGB: 16-bit samples by the upper eight of `depth` bits, transparent areas to white.

    Raises:
        ValueError: what its samples mean is unknown: they are negative, say.
    """
    if is_deep(image) or image.mode == "F":
        # Pillow's own conversion would clip at 255 instead of scaling.
        levels = _float_levels(image) if image.mode == "F" else _deep_levels(image, depth)
        return Image.fromarray(255 - levels if _is_inverted(image) else levels).convert("RGB")
    _check_tags(image)
    if image.has_transparency_data:
        image = _with_alpha(image)
        if _is_transparency(image):
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def reading_of(image: Image.Image, *, wide: bool) -> str:
    """How a loaded image is read where it is not the usual way; stored features depend on it. `wide`: see `is_wide`."""
    return "; ".join(_readings(image, wide))


def hidden_share(image: Image.Image) -> float:
    """The share of the pixels of a loaded image that transparency hides, although they are not of a single colour."""
    if is_deep(image) or not image.has_transparency_data or not _is_transparency(image := _with_alpha(image)):
        return 0.0
    hidden = image.getchannel("A").point(lambda alpha: 255 if alpha < OPAQUE else 0)
    share = hidden.histogram()[255] / (image.width * image.height)
    # Programs that cut out an object usually leave a single colour, or nothing, behind it.
    varies = share and max(np.asarray(image.convert("RGB"))[np.asarray(hidden) == 255].std(0)) > 2
    return round(share, 4) if varies else 0.0


def is_deep(image: Image.Image) -> bool:
    """Whether its samples are integers of more than eight bits."""
    return image.mode.startswith("I")


def highest_samples(image: Image.Image) -> tuple[int, int] | None:
    """The highest sample of a loaded image with more than eight bits, and the highest but for a few pixels' samples.

    None: it has no more than eight bits.
    """
    if not is_deep(image):
        return None
    samples = np.asarray(image).clip(0, 2**FULL_DEPTH - 1)
    return int(samples.max()), int(_usual_range(samples)[1])


def bits_of(highest: int, usual: int) -> int:
    """How many bits an image uses with these `highest_samples`.

    A few brighter pixels count, unless they are so much brighter that they would make the others almost black.
    """
    most, least = depth_for(highest), depth_for(usual)
    return most if most - least < 4 else least


def depth_for(highest: int) -> int:
    """The least of DEPTHS that has the sample value `highest`."""
    return next(depth for depth in DEPTHS if highest < 2**depth)


def is_wide(image: Image.Image) -> bool:
    """Whether an image in colour, not yet loaded, has over eight bits per channel; Pillow reads the upper eight."""
    return isinstance(image, ImageFile) and not is_deep(image) and any(";16" in str(tile.args) for tile in image.tile)


def clipped_share(image: Image.Image, depth: int) -> float:
    """The share of the samples of a loaded deep image that are too high for `depth` bits."""
    return float((np.asarray(image) >= 2**depth).mean())


def _readings(image: Image.Image, wide: bool) -> Iterator[str]:
    if wide and np.asarray(image.convert("RGB")).max() < 16:
        yield "16 bits per channel that use the lower 12, but Pillow reads the upper eight: almost black"
    if image.mode == "F":
        yield f"floating-point samples, of which {_float_white(np.asarray(image))} is white"
    if is_deep(image) and "transparency" in image.info:
        yield "samples of one value are transparent"
    if _is_inverted(image):
        yield "white is 0 (PhotometricInterpretation)"
    if not is_deep(image) and image.has_transparency_data and not _is_transparency(_with_alpha(image)):
        yield "its alpha channel would hide everything and is ignored"


def _is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white; Pillow itself inverts images of up to eight bits."""
    return (is_deep(image) or image.mode == "F") and _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO


def _tag(image: Image.Image, tag: int) -> Any:
    """The value, or the first of several, of a TIFF's tag; None: there is none."""
    found = image.tag_v2.get(tag) if isinstance(image, TiffImageFile) else None
    return found[0] if isinstance(found, tuple) else found


def _with_alpha(image: Image.Image) -> Image.Image:
    return (image.convert("LA") if image.mode == "La" else image).convert("RGBA")


def _is_transparency(image: Image.Image) -> bool:
    """Whether the fourth channel of an RGBA image leaves something to see, or nothing would be to see without it."""
    *colours, (_, most) = cast("tuple[tuple[int, int], ...]", image.getextrema())
    return most >= OPAQUE or all(low == high for low, high in colours)


def _deep_levels(image: Image.Image, depth: int) -> Array:
    samples = np.asarray(image)
    if image.mode == "I":
        # 32 bits, or signed 16 bits.
        _check_range(samples, UNSIGNED)
    levels: Array = (samples.clip(0, 2**depth - 1) >> (depth - 8)).astype(np.uint8)
    transparent = image.info.get("transparency")
    return levels if transparent is None else np.where(samples == transparent, np.uint8(255), levels)


def _check_tags(image: Image.Image) -> None:
    """Raises ValueError if the samples of an image of eight bits are not what Pillow takes them for."""
    if _tag(image, PLANAR) == SEPARATE and _tag(image, COMPRESSION) == RAW and _tag(image, BITS) > 8:
        raise ValueError("its 16-bit channels are stored one after the other, which Pillow misreads: convert it")
    if image.mode == "L" and _tag(image, SAMPLE_FORMAT) == SIGNED:
        _check_range(np.asarray(image).view(np.int8), UNSIGNED)


def _check_range(samples: Array, advice: str) -> None:
    low, high = _usual_range(samples)
    if low < 0 or high >= 2**FULL_DEPTH:
        raise ValueError(f"what its samples from {low:,} to {high:,} mean is unknown: {advice}")


def _float_levels(image: Image.Image) -> Array:
    samples = np.asarray(image)
    white = _float_white(samples)
    levels = np.nan_to_num(samples, nan=0, posinf=white, neginf=0).clip(0, white) * (255 / white)
    return np.rint(levels).astype(np.uint8)


def _float_white(samples: Array) -> int:
    """Which value of an image of floating-point samples is white, 1 or 255: no format says it.

    Raises:
        ValueError: they fit neither.
    """
    finite = samples[np.isfinite(samples)]
    if samples.size - finite.size > _rare(samples.size):
        raise ValueError(f"{1 - finite.size / samples.size:.1%} of its samples are NaN or infinite")
    low, high = _usual_range(finite)
    # Resizing overshoots a little.
    for white, least in ((1, 0), (255, 16)):
        if low >= -0.1 * white and least <= max(high, 0) <= 1.1 * white:
            return white
    raise ValueError(
        f"what its floating-point samples from {low:.4g} to {high:.4g} mean is unknown: scale them to 0 … 1, or "
        "convert it to 8 or 16 bits"
    )


def _usual_range(samples: Array) -> tuple[Any, Any]:
    """The lowest and the highest sample but for a few."""
    rare = _rare(samples.size)
    places = rare, samples.size - 1 - rare
    found = np.partition(samples, places, axis=None)
    return found[places[0]], found[places[1]]


def _rare(count: int) -> int:
    """How many of `count` pixels do not count."""
    return min(max(FEW, int(RARE * count)), count // 100)
