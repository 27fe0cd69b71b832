"""A clean folder of images, and one function per fault that the audit finds."""

import functools
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

COUNTS = {"train": 12, "valid": 4, "test": 4}
CLASSES = ("ant", "bee", "cat")
# The kind and the paths of the finding that a fault must give.
Expected = tuple[str, tuple[str, ...]]


def photo(path: Path, seed: int, size: tuple[int, int] = (60, 48), mode: str = "RGB") -> Path:
    """An image with as many colours as a photograph, different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_photographed(seed, size, mode, path.suffix.lower()))
    return path


@functools.cache
def _photographed(seed: int, size: tuple[int, int], mode: str, suffix: str) -> bytes:
    """The content of such an image: most tests need the same ones."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC), int)
    # Fine detail, as a sharp photograph has.
    image = Image.fromarray((smooth + generator.integers(-9, 10, smooth.shape)).clip(0, 255).astype(np.uint8))
    content = io.BytesIO()
    image.convert(mode).save(content, Image.registered_extensions()[suffix], quality=90)
    return content.getvalue()


def clean(root: Path) -> Path:
    """`root`/{train,valid,test}/<class>/<n>.jpg, in which there is nothing to find."""
    seed = 0
    for split, count in COUNTS.items():
        for name in CLASSES:
            for number in range(count):
                photo(root / split / name / f"{number:02}.jpg", seed := seed + 1)
    return root


def unreadable(root: Path) -> Expected:
    content = bytearray(_content(photo(root / "scratch.png", 900)))
    content[len(content) // 2] ^= 255
    return _put(root, "train/ant/broken.png", bytes(content), "unreadable")


def truncated(root: Path) -> Expected:
    content = _content(photo(root / "scratch.jpg", 901))
    return _put(root, "valid/ant/half.jpg", content[: len(content) // 2], "truncated")


def empty_file(root: Path) -> Expected:
    return _put(root, "test/bee/nothing.jpg", b"", "empty file")


def not_an_image(root: Path) -> Expected:
    return _put(root, "train/cat/letter.jpg", b"Dear Sir or Madam,\n" * 50, "not an image")


def decompression_bomb(root: Path) -> Expected:
    Image.new("1", (10_000, 10_000)).save(root / "train/bee/vast.png")
    return "decompression bomb", ("train/bee/vast.png",)


def file_too_large(root: Path) -> Expected:
    path = root / "train/cat/huge.jpg"
    path.touch()
    # A sparse file, which takes up no space.
    os.truncate(path, 40 * 10**9)
    return "file too large", ("train/cat/huge.jpg",)


def uniform_remainder(root: Path) -> Expected:
    content = _content(photo(root / "train/cat/broken.bmp", 1101))
    half = len(content) // 2
    return _put(root, "train/cat/broken.bmp", content[:half] + bytes(len(content) - half), "uniform remainder")


def file_about_an_image(root: Path) -> Expected:
    photo(root / "train/cat/03_mask.png", 1102)
    return "file about an image", ("train/cat/03_mask.png",)


def smaller_version(root: Path) -> Expected:
    photo(root / "valid/cat/02-150x113.jpg", 1103)
    return "smaller version of an image", ("valid/cat/02-150x113.jpg",)


def same_name(root: Path) -> Expected:
    photo(root / "test/cat/01.png", 1104)
    return "several files of one name", ("test/cat/01.jpg", "test/cat/01.png")


def placeholder_by_name(root: Path) -> Expected:
    photo(root / "train/ant/image_not_found.jpg", 902)
    return "placeholder", ("train/ant/image_not_found.jpg",)


def placeholder_of_one_colour(root: Path) -> Expected:
    Image.new("RGB", (60, 48), (200, 200, 200)).save(root / "train/bee/plain.png")
    return "placeholder", ("train/bee/plain.png",)


def placeholder_drawn(root: Path) -> Expected:
    image = Image.new("RGB", (60, 48), "white")
    ImageDraw.Draw(image).text((2, 20), "no photo", fill="grey")
    image.save(root / "test/cat/sign.gif")
    return "placeholder", ("test/cat/sign.gif",)


def wrong_extension(root: Path) -> Expected:
    path = photo(root / "scratch.png", 903)
    path.rename(root / "train/ant/really_png.jpg")
    return "extension does not match format", ("train/ant/really_png.jpg",)


def unusually_large(root: Path) -> Expected:
    photo(root / "train/ant/large.jpg", 904, size=(400, 300))
    return "unusually large", ("train/ant/large.jpg",)


def unusually_small(root: Path) -> Expected:
    photo(root / "train/ant/small.jpg", 905, size=(10, 8))
    return "unusually small", ("train/ant/small.jpg",)


def extreme_aspect(root: Path) -> Expected:
    photo(root / "train/ant/strip.jpg", 906, size=(140, 30))
    return "extreme aspect ratio", ("train/ant/strip.jpg",)


def grayscale(root: Path) -> Expected:
    photo(root / "train/bee/grayscale.jpg", 907, mode="L")
    return "grayscale outlier", ("train/bee/grayscale.jpg",)


def multiple_frames(root: Path) -> Expected:
    frames = [Image.open(photo(root / f"scratch{n}.png", 908 + n)) for n in range(2)]
    frames[0].save(root / "train/bee/animated.gif", save_all=True, append_images=frames[1:])
    _clear(root)
    return "multiple frames", ("train/bee/animated.gif",)


def exif_rotated(root: Path) -> Expected:
    image = Image.open(photo(root / "scratch.jpg", 910))
    exif = image.getexif()
    exif[274] = 6
    image.save(root / "train/cat/rotated.jpg", exif=exif)
    _clear(root)
    return "EXIF-rotated", ("train/cat/rotated.jpg",)


def duplicates_within(root: Path) -> Expected:
    return _copy(root, "train/ant/03.jpg", "train/ant/03 copy.jpg", "duplicates within a split")


def duplicates_across(root: Path) -> Expected:
    return _copy(root, "train/ant/04.jpg", "test/ant/again.jpg", "duplicates across splits")


def conflicting_labels(root: Path) -> Expected:
    return _copy(root, "train/ant/05.jpg", "train/cat/an ant.jpg", "conflicting labels")


def near_duplicate(root: Path) -> Expected:
    Image.open(root / "train/bee/06.jpg").save(root / "valid/bee/almost.jpg", quality=70)
    return "near duplicates across splits", ("train/bee/06.jpg", "valid/bee/almost.jpg")


def near_duplicate_within(root: Path) -> Expected:
    Image.open(root / "train/bee/07.jpg").save(root / "train/bee/almost.jpg", quality=70)
    return "near duplicates within a split", ("train/bee/07.jpg", "train/bee/almost.jpg")


def near_duplicate_of_another_class(root: Path) -> Expected:
    Image.open(root / "train/bee/08.jpg").save(root / "train/cat/almost.jpg", quality=70)
    return "near duplicates with conflicting labels", ("train/bee/08.jpg", "train/cat/almost.jpg")


def outlier(root: Path) -> Expected:
    stripes = np.zeros((48, 60, 3), np.uint8)
    stripes[::2] = (255, 0, 255)
    Image.fromarray(stripes).save(root / "train/bee/odd.png")
    return "outlier", ("train/bee/odd.png",)


def blurry(root: Path) -> Expected:
    sharp = Image.open(photo(root / "train/ant/blurry.png", 911))
    sharp.filter(ImageFilter.GaussianBlur(2)).save(root / "train/ant/blurry.png")
    return "blurry", ("train/ant/blurry.png",)


def dark(root: Path) -> Expected:
    _scaled(root / "train/cat/dark.png", 0.15, 0)
    return "dark", ("train/cat/dark.png",)


def overexposed(root: Path) -> Expected:
    path = root / "valid/ant/bright.png"
    _scaled(path, 0.11, 227)
    spotted = Image.open(path)
    for place in range(10, 40, 8):
        spotted.paste((0, 0, 0), (place, place, place + 4, place + 4))
    spotted.save(path)
    return "overexposed", ("valid/ant/bright.png",)


def hidden_by_transparency(root: Path) -> Expected:
    with_alpha(root / "train/cat/masked.png", [255] * 60 + [0] * 30)
    return "hidden by transparency", ("train/cat/masked.png",)


def alpha_of_nothing(root: Path) -> Expected:
    with_alpha(root / "train/cat/alpha.png", [1])
    return "unusual pixel values", ("train/cat/alpha.png",)


def with_alpha(path: Path, values: list[int]) -> None:
    """A photo with these values of alpha, repeated from left to right and from top to bottom."""
    image = Image.open(photo(path, 1200 + len(values)))
    image.putalpha(Image.fromarray(np.resize(np.array(values, np.uint8), image.size[::-1])))
    image.save(path)


def _scaled(path: Path, factor: float, offset: int) -> None:
    Image.open(photo(path, 912)).point(lambda value: round(value * factor + offset)).save(path)


def class_missing_from_split(root: Path) -> Expected:
    for number in range(10):
        photo(root / "train/dog" / f"{number}.jpg", 920 + number)
        photo(root / "valid/dog" / f"{number}.jpg", 930 + number)
    return "class missing from a split", ()


def class_missing_from_train(root: Path) -> Expected:
    photo(root / "test/elk/0.jpg", 940)
    return "class missing from train", ()


def empty_class(root: Path) -> Expected:
    for split in COUNTS:
        (root / split / "fox").mkdir()
    return "empty class", ()


def small_class(root: Path) -> Expected:
    for start, split in enumerate(COUNTS):
        for number in range(9):
            photo(root / split / "gnu" / f"{number}.jpg", 950 + 10 * start + number)
    return "small class", ()


def class_imbalance(root: Path) -> Expected:
    for start, (split, count) in enumerate({"train": 50, "valid": 4, "test": 4}.items()):
        for number in range(count):
            photo(root / split / "hen" / f"{number}.jpg", 2000 + 100 * start + number)
    return "class imbalance", ()


def similar_class_names(root: Path) -> Expected:
    (root / "test" / "cat").rename(root / "test" / "Cat ")
    return "similar class names", ()


def hidden_file(root: Path) -> Expected:
    return _put(root, "train/cat/.DS_Store", b"x", "hidden or system file")


def system_file(root: Path) -> Expected:
    return _put(root, "train/cat/Thumbs.db", b"x", "hidden or system file")


def other_file(root: Path) -> Expected:
    return _put(root, "train/cat/notes.txt", b"x", "other file")


Fault = Callable[[Path], Expected]
FAULTS: tuple[Fault, ...] = (
    unreadable,
    truncated,
    empty_file,
    not_an_image,
    decompression_bomb,
    file_too_large,
    file_about_an_image,
    smaller_version,
    same_name,
    uniform_remainder,
    placeholder_by_name,
    placeholder_of_one_colour,
    placeholder_drawn,
    wrong_extension,
    unusually_large,
    unusually_small,
    extreme_aspect,
    grayscale,
    multiple_frames,
    exif_rotated,
    duplicates_within,
    duplicates_across,
    conflicting_labels,
    class_missing_from_split,
    class_missing_from_train,
    empty_class,
    small_class,
    class_imbalance,
    hidden_file,
    system_file,
    other_file,
    near_duplicate,
    near_duplicate_of_another_class,
    near_duplicate_within,
    outlier,
    blurry,
    dark,
    overexposed,
    hidden_by_transparency,
    alpha_of_nothing,
    # Last, because it renames a folder into which others put files.
    similar_class_names,
)


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    path.unlink()
    return content


def _put(root: Path, path: str, content: bytes, kind: str) -> Expected:
    (root / path).write_bytes(content)
    return kind, (path,)


def _copy(root: Path, source: str, target: str, kind: str) -> Expected:
    shutil.copyfile(root / source, root / target)
    return kind, tuple(sorted((source, target), key=lambda path: (path.startswith("test"), path)))


def _clear(root: Path) -> None:
    for path in root.glob("scratch*"):
        path.unlink()


# Those that are found from features.
FROM_FEATURES = (near_duplicate, near_duplicate_of_another_class, near_duplicate_within, outlier)
