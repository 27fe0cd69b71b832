"""Which images are copies of one another: equal byte for byte, or one image that was saved again.

A photograph that was compressed again, resized or saved in another format has other bytes, but almost the same
pixels. Small thumbnails, which the inspection of the images makes, show it. Images that are merely similar, such as a
crop or the next shot of a series, are no copies.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from headstart.data.image_info import THUMBNAIL, ImageInfo, decode_thumbnail
from headstart.data.splits import joined
from headstart.log import log

Array = np.ndarray[Any, np.dtype[Any]]
# Two images are one if their thumbnails differ by less than this share of the contrast of either: the root mean square
# of the difference, relative to that of the deviation from the mean colour. Of photographs compressed again (JPEG at
# quality 50, WebP at 75), or halved in size, 97 % and more are below it; of different ones, none.
DIFFERENCE = 0.06
# Thumbnails with less contrast than this, of 255 levels, show too little to tell.
CONTRAST = 8.0
# Of more images, which would take minutes to compare, only equal files are found.
MOST_COMPARED = 200_000
# Compared at a time, which bounds the memory.
ROWS, COLUMNS = 512, 8192
# A set of more images than this is a series, such as those of a fixed camera, and not copies of one.
MOST_COPIES = 9


def find_copies(infos: Mapping[str, ImageInfo]) -> dict[str, str]:
    """Returns a value for each image by path that has copies among `infos`: the same for all copies of an image.

    It is the SHA-256 of one of them. Images that cannot be used have none.
    """
    usable = {path: infos[path] for path in sorted(infos) if infos[path].fault is None}
    thumbnails = {info.sha256: info.thumbnail for info in usable.values()}
    labels = _same_images([*thumbnails.values()])
    names: dict[int, str] = {}
    of_content = {content: names.setdefault(label, content) for content, label in zip(thumbnails, labels, strict=True)}
    counts = Counter(of_content[info.sha256] for info in usable.values())
    return {path: name for path, info in usable.items() if counts[name := of_content[info.sha256]] > 1}


def _same_images(thumbnails: list[str]) -> list[int]:
    """A label for each thumbnail, the same for those of one image."""
    count = len(thumbnails)
    labels = np.arange(count)
    if count > MOST_COMPARED:
        log.info("more than %s images: only those that are equal byte for byte count as copies", f"{MOST_COMPARED:,}")
        return labels.tolist()
    pixels = np.array([decode_thumbnail(text).ravel() for text in thumbnails]).reshape(count, 3 * THUMBNAIL**2)
    for first, second in _pairs(pixels):
        labels = joined(labels, first, second)
    is_series = np.bincount(labels, minlength=1)[labels] > MOST_COPIES
    return np.where(is_series, count + np.arange(count), labels).tolist()


def _pairs(thumbnails: Array) -> Iterator[tuple[Array, Array]]:
    """The indices of the first and of the second image of pairs of the same, from thumbnails (N, values) of uint8.

    The numbers are integers below 2²⁴, which float32 holds exactly: the pairs are the same on every machine.
    """
    values = thumbnails.astype(np.float32) - 128
    squares = (values**2).sum(1)
    colours = values.reshape(len(values), values.shape[1] // 3, 3).mean(1, dtype=np.float64)
    contrast = np.sqrt((squares / values.shape[1] - (colours**2).mean(1)).clip(0))
    # Contrasts of the same image differ by less than the images themselves: only few need to be compared.
    order = np.argsort(contrast, kind="stable")
    order = order[contrast[order] >= CONTRAST]
    values, squares, contrast = values[order], squares[order], contrast[order]
    most = values.shape[1] * (DIFFERENCE * contrast) ** 2
    for start in range(0, len(order), ROWS):
        rows = slice(start, start + ROWS)
        end = int(np.searchsorted(contrast, (1 + DIFFERENCE) * contrast[rows][-1], "right"))
        for left in range(start, end, COLUMNS):
            columns = slice(left, min(left + COLUMNS, end))
            differences = squares[rows, None] + squares[columns] - 2 * values[rows] @ values[columns].T
            first, second = np.nonzero(differences < most[rows, None])
            first, second = first + start, second + left
            yield order[first[first < second]], order[second[first < second]]
