"""From decoded pixels to what a network takes: the meaning of their values, their depth, size and normalization."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, cast

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from headstart.text import counted

# How the samples of any image become eight bits per channel: bit depth, sign, polarity and transparency.

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
    """Returns how a loaded image is read where it is not the usual way, on which stored features depend; "" otherwise.

    `wide` is what `is_wide` said before it was loaded.
    """
    readings = []
    if wide and np.asarray(image.convert("RGB")).max() < 16:
        readings.append("16 bits per channel that use the lower 12, but Pillow reads the upper eight: almost black")
    if image.mode == "F":
        readings.append(f"floating-point samples, of which {_float_white(np.asarray(image))} is white")
    if is_deep(image) and "transparency" in image.info:
        readings.append("samples of one value are transparent")
    if _is_inverted(image):
        readings.append("white is 0 (PhotometricInterpretation)")
    if not is_deep(image) and image.has_transparency_data and not _is_transparency(_with_alpha(image)):
        readings.append("its alpha channel would hide everything and is ignored")
    return "; ".join(readings)


def hidden_share(image: Image.Image) -> float:
    """Returns the share of pixels of a loaded image that transparency hides, although they have several colours."""
    if is_deep(image) or not image.has_transparency_data or not _is_transparency(image := _with_alpha(image)):
        return 0.0
    hidden = image.getchannel("A").point(lambda alpha: 255 if alpha < OPAQUE else 0)
    share = hidden.histogram()[255] / (image.width * image.height)
    # Programs that cut out an object usually leave a single colour, or nothing, behind it.
    varies = share and max(np.asarray(image.convert("RGB"))[np.asarray(hidden) == 255].std(0)) > 2
    return round(share, 4) if varies else 0.0


def is_deep(image: Image.Image) -> bool:
    """Returns whether the image's samples are integers of more than eight bits."""
    return image.mode.startswith("I")


class Samples(NamedTuple):
    """The highest sample of an image with more than eight bits, and the highest one but for a few pixels."""

    highest: int
    usual: int

    @property
    def bits(self) -> int:
        """How many bits the image uses.

        A few brighter pixels count, unless they are so much brighter that they would make the others almost black.
        """
        most, least = (next(depth for depth in DEPTHS if sample < 2**depth) for sample in self)
        return most if most - least < FAR else least


def highest_samples(image: Image.Image) -> Samples | None:
    """Returns the highest samples of a loaded image; None: it has no more than eight bits."""
    if not is_deep(image):
        return None
    samples = np.asarray(image).clip(0, 2**FULL_DEPTH - 1)
    return Samples(int(samples.max()), int(_usual_range(samples)[1]))


def is_wide(image: Image.Image) -> bool:
    """Whether an image in colour, not yet loaded, has over eight bits per channel; Pillow reads the upper eight."""
    return isinstance(image, ImageFile) and not is_deep(image) and any(";16" in str(tile.args) for tile in image.tile)


def clipped_share(image: Image.Image, depth: int) -> float:
    """Returns the share of the samples of a loaded deep image that are too high for `depth` bits."""
    return float((np.asarray(image) >= 2**depth).mean())


def _is_inverted(image: Image.Image) -> bool:
    """Whether 0 is white; Pillow itself inverts images of up to eight bits."""
    return (is_deep(image) or image.mode == "F") and _tag(image, PHOTOMETRIC) == WHITE_IS_ZERO


def _tag(image: Image.Image, tag: int) -> Any:
    """The value, or the first of several, of a TIFF's tag; None: there is none."""
    value = image.tag_v2.get(tag) if isinstance(image, TiffImageFile) else None
    return value[0] if isinstance(value, tuple) else value


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
        _check_range(samples)
    levels: Array = (samples.clip(0, 2**depth - 1) >> (depth - 8)).astype(np.uint8)
    transparent = image.info.get("transparency")
    return levels if transparent is None else np.where(samples == transparent, np.uint8(255), levels)


def _check_tags(image: Image.Image) -> None:
    """Raises ValueError if the samples of an image of eight bits are not what Pillow takes them for."""
    if _tag(image, PLANAR) == SEPARATE and _tag(image, COMPRESSION) == RAW and _tag(image, BITS) > 8:
        raise ValueError("its 16-bit channels are stored one after the other, which Pillow misreads: convert it")
    if image.mode == "L" and _tag(image, SAMPLE_FORMAT) == SIGNED:
        _check_range(np.asarray(image).view(np.int8))


def _check_range(samples: Array) -> None:
    low, high = _usual_range(samples)
    if low < 0 or high >= 2**FULL_DEPTH:
        raise ValueError(
            f"what its samples from {low:,} to {high:,} mean is unknown: convert it to 8 or 16 bits without a sign, so "
            "that 0 is black"
        )


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
    ordered = np.partition(samples, places, axis=None)
    return ordered[places[0]], ordered[places[1]]


def _rare(count: int) -> int:
    """How many of `count` pixels do not count."""
    return min(max(FEW, int(RARE * count)), count // 100)


# How many bits the samples of 16-bit files really have; cameras and scanners often fill only the lower 12.

# Of many images, this share (or one of ten) may use far more bits than the others without deciding for all.
OUTVOTED, MANY = 0.02, 10
# Bits by which an image is so much brighter, or darker, than the others that it is from another source.
FAR = 4


def used_depth(files: Iterable[Samples]) -> int | None:
    """Returns the least of DEPTHS for the samples of all 16-bit files but a few far brighter ones; None: no files."""
    bits = sorted(samples.bits for samples in files)
    if not bits:
        return None
    few = max(1, int(OUTVOTED * len(bits))) if len(bits) >= MANY else 0
    most, usual = bits[-1], bits[-1 - few]
    return most if most - usual < FAR else usual


def other_depth(files: Mapping[str, Samples], depth: int) -> str | None:
    """Returns why 16-bit files, by their names, do not suit a classifier that reads `depth` bits; None: they do.

    A file that uses fewer bits may be dark: so only a large difference counts, or one of many files.
    """
    bits = {name: samples.bits for name, samples in files.items()}
    brighter = [name for name in bits if bits[name] > depth]
    darker = [name for name in bits if bits[name] <= depth - FAR]
    if len(bits) >= MANY and not brighter and (used_depth(files.values()) or depth) < depth:
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


# How an image becomes the square that the network sees, with Pillow alone: an export is used where PyTorch is not.

# Resized to 256 pixels on its shorter side, an image of 20,000 × 1 pixels would take up 5 GB; of one this long, 16 MB.
ELONGATED = 64
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform as plain values: sizes in pixels, the interpolation's name, and the normalization.

    Of an image that is not square, `resize_mode` "crop" makes the shorter side `resize_size` pixels long, and "squash"
    both; "pad" the longer one, and adds margins of the colour `fill` to the shorter one. Of 16-bit samples, the lower
    `depth` bits are used.
    """

    resize_size: int
    image_size: int
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize_mode: str = "crop"
    depth: int = FULL_DEPTH

    def __post_init__(self) -> None:
        # Plain values have lists.
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    @property
    def fill(self) -> tuple[int, ...]:
        """The mean colour, which is 0 when normalized, as in the network's own padding."""
        return tuple(min(255, max(0, round(255 * value))) for value in self.mean)

    def as_dict(self) -> dict[str, Any]:
        """Numbers, strings and lists, so that a checkpoint loads with `weights_only=True`."""
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}
        # Without the usual depth, keys of stored features are those of versions that knew no other.
        if self.depth == FULL_DEPTH:
            del values["depth"]
        return values


def resized_and_cropped(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Returns what the network sees of an RGB image: bit for bit torchvision's Resize and CenterCrop."""
    crop, image = preprocessing.image_size, _resized(image, preprocessing)
    left, top = (round((edge - crop) / 2) for edge in image.size)
    return image.crop((left, top, left + crop, top + crop))


def squared(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Returns all of the image in a square of `resize_size` pixels; with "crop", the image, or its `center`."""
    return center(image) if preprocessing.resize_mode == "crop" else _resized(image, preprocessing)


def center(image: Image.Image) -> Image.Image:
    """Returns the middle of an image that is more than ELONGATED times as long as wide; any other one as it is."""
    short, long = sorted(image.size)
    if long <= ELONGATED * short:
        return image
    # With as many pixels left out before as behind.
    length = ELONGATED * short + (long - ELONGATED * short) % 2
    width, height = (length if edge == long else edge for edge in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size, mode = preprocessing.resize_size, preprocessing.resize_mode
    image = center(image) if mode == "crop" else image
    short, long = sorted(image.size)
    if mode == "squash":
        width, height = size, size
    else:
        part = long if mode == "pad" else short
        width, height = (max(1, int(size * edge / part)) for edge in image.size)
    if (new := (width, height)) != image.size:
        image = image.resize(new, Image.Resampling[preprocessing.interpolation.upper()])
    if mode != "pad":
        return image
    square = Image.new("RGB", (size, size), preprocessing.fill)
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def network_input(image: Image.Image, preprocessing: Preprocessing) -> Array:
    """Returns what the network sees of an RGB image as uint8 (3, image_size, image_size)."""
    return np.asarray(resized_and_cropped(image, preprocessing)).transpose(2, 0, 1)
