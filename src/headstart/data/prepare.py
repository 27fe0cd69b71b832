"""From the settings under `data` to what a run trains on, and which of its images are copies of one another.

Copies are equal byte for byte, or one image that was saved again. A photograph that was compressed again, resized or
saved in another format has other bytes, but almost the same pixels: small thumbnails, which the inspection of the
images makes, show it. Images that are merely similar, such as a crop or the next shot of a series, are no copies.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from headstart.config.data import DataSettings
from headstart.data.corrections import apply_corrections, load_corrections
from headstart.data.image_info import (
    MISSING,
    THUMBNAIL,
    ImageInfo,
    decode_thumbnail,
    deep_samples,
    inspect_images,
    odd_depths,
)
from headstart.data.labels import CONFLICTS, INCOMPLETE, Problem
from headstart.data.manifest import Manifest, assign_fold, build_manifest, check_trainable
from headstart.data.preprocessing import FULL_DEPTH, Array, used_depth
from headstart.data.scan import Fold, Scan, keep_copies_together, scan_images
from headstart.data.splits import joined
from headstart.errors import HeadstartError
from headstart.errors import listed as bounded
from headstart.log import log

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


@dataclass(frozen=True)
class PreparedData:
    """What a run uses, which files there are, and what is known about each."""

    manifest: Manifest
    scan: Scan
    infos: dict[str, ImageInfo]


# Returns a value for each image by path that has near duplicates: the same for all of these.
FindAlike = Callable[[Manifest], dict[str, str]]


def prepare_data(settings: DataSettings, seed: int, alike: FindAlike | None = None) -> PreparedData:
    """Returns what can be trained on, after `on_unreadable` and `on_leak` were applied; `alike` as in `inspect_data`.

    Raises:
        HeadstartError: the folder is not laid out as one of images, a policy forbids training on it, or a class lacks
            images.
    """
    data = inspect_data(settings, seed, alike)
    scan, infos, skipped = data.scan, data.infos, data.manifest.skipped
    _check_rows(scan, settings.on_unreadable)
    elsewhere = {infos[path].sha256 for split, _, path in scan.samples if split != "train"}
    # The training images that are also, byte for byte, in valid or test.
    leaks = tuple(
        path
        for split, _, path in scan.samples
        if split == "train" and path not in skipped and infos[path].sha256 in elsewhere
    )
    if skipped and settings.on_unreadable == "error":
        others = f" (and {len(skipped) - 1} more: see task=audit)" if len(skipped) > 1 else ""
        raise HeadstartError(
            f"{_why_skipped(skipped[0], scan, infos)}{others}; repair or remove it, or skip it with "
            "data.on_unreadable=skip"
        )
    if leaks and settings.on_leak == "error":
        count = "1 image" if len(leaks) == 1 else f"{len(leaks)} images"
        raise HeadstartError(
            f"the train split of {scan.root} shares {count} with valid or test, such as {leaks[0]}: "
            "see task=audit, remove the duplicates, or set data.on_leak=drop"
        )
    dropped = leaks if settings.on_leak == "drop" else ()
    depth = data.manifest.depth
    manifest = _with_depth(build_manifest(scan, infos, skipped=skipped, dropped=dropped), infos, depth, settings)
    log.info("%s", manifest.describe())
    check_trainable(manifest, scan)
    return PreparedData(manifest, scan, infos)


def inspect_data(settings: DataSettings, seed: int, alike: FindAlike | None = None) -> PreparedData:
    """Returns every usable image, whether or not it can be trained on.

    `alike` says which images stay in one split besides copies, given all images in splits that do without it.

    Raises:
        HeadstartError: the folder is not laid out as one of images.
    """
    scan = scan_images(settings, seed)
    corrections = load_corrections(settings, scan.root)
    added = corrections.added.values() if corrections is not None else ()
    infos = inspect_images(scan.root, list(dict.fromkeys([*(sample.path for sample in scan.samples), *added])))
    own = {sample.path: infos[sample.path] for sample in scan.samples}
    scan = keep_copies_together(scan, find_copies(own))
    if alike is not None:
        scan = keep_copies_together(scan, alike(_inspected(settings, scan, own).manifest))
    if corrections is not None:
        scan = apply_corrections(scan, infos, corrections)
        infos = {sample.path: infos[sample.path] for sample in scan.uncorrected}
    if settings.folds is not None and settings.fold is not None:
        scan = assign_fold(scan, infos, Fold(settings.fold, settings.folds))
    return _inspected(settings, scan, infos)


def _inspected(settings: DataSettings, scan: Scan, infos: dict[str, ImageInfo]) -> PreparedData:
    """The usable images of a scan, as they are seen at the depth that suits them."""
    without_label = dict.fromkeys(p.path for p in scan.problems if p.path and p.path not in infos)
    unusable = dict.fromkeys(path for *_, path in scan.samples if infos[path].fault is not None)
    skipped = (*scan.unreadable, *without_label, *unusable)
    # The test split has no say in what is trained, but is all there is in some folders.
    learnt = {sample.path: infos[sample.path] for sample in scan.samples if sample.split != "test"}
    used = used_depth((deep_samples(learnt) or deep_samples(infos)).values()) or FULL_DEPTH
    # One for all files, because what is dark in one of them must stay so.
    depth = used if settings.depth == "auto" else int(settings.depth)
    infos = {path: info.seen_at(depth) for path, info in infos.items()}
    manifest = _with_depth(build_manifest(scan, infos, skipped=skipped, dropped=()), infos, depth, settings)
    return PreparedData(manifest, scan, infos)


def _with_depth(manifest: Manifest, infos: dict[str, ImageInfo], depth: int, settings: DataSettings) -> Manifest:
    if not deep_samples(infos):
        return replace(manifest, depth=depth)
    notes = [] if depth == FULL_DEPTH else [f"16-bit files are read as {depth}-bit ones (data.depth={settings.depth})"]
    if odd := odd_depths({path: info for path, info in infos.items() if info.fault is None}, depth):
        notes.append(f"of another bit depth than the others: {bounded(odd, 3)} (see task=audit)")
    return replace(manifest, depth=depth, notes=(*manifest.notes, *notes))


def _check_rows(scan: Scan, on_unreadable: str) -> None:
    """Raises HeadstartError if rows of the table contradict each other, or are incomplete and not to be skipped."""
    conflicts = [problem for problem in scan.problems if problem.kind in CONFLICTS]
    incomplete = [problem for problem in scan.problems if problem.kind == INCOMPLETE]
    if conflicts:
        raise HeadstartError(
            f"{_first_of(conflicts, scan)}: keep the row that is right; several labels per image are not supported"
        )
    if incomplete and on_unreadable == "error":
        raise HeadstartError(
            f"{_first_of(incomplete, scan)}: complete or delete it, or skip it with data.on_unreadable=skip"
        )


def _first_of(problems: list[Problem], scan: Scan) -> str:
    kind, path, says = problems[0]
    others = f" (and {len(problems) - 1} more: see task=audit)" if len(problems) > 1 else ""
    what = kind if kind in CONFLICTS else f"an {kind}"
    return f"{scan.csv} has {what}{f' for {path}' if path else ''}: {says}{others}"


def _why_skipped(path: str, scan: Scan, infos: dict[str, ImageInfo]) -> str:
    if path in scan.unreadable:
        return f"the folder {scan.root / path} cannot be read: {scan.unreadable[path]}"
    if infos[path].fault == MISSING:
        return f"{scan.root / path}, which {scan.csv} names, does not exist"
    return f"{scan.root / path} cannot be read as an image: {infos[path].reason}"


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
