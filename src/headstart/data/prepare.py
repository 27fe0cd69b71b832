"""From the settings under `data` to what a run trains on."""

from dataclasses import dataclass

from headstart.config.data import DataSettings
from headstart.data.image_info import ImageInfo, inspect_images
from headstart.data.manifest import Manifest, build_manifest, check_trainable
from headstart.data.scan import Scan, scan_folder
from headstart.errors import HeadstartError
from headstart.log import log


@dataclass(frozen=True)
class PreparedData:
    """What a run uses, which files there are, and what is known about each."""

    manifest: Manifest
    scan: Scan
    infos: dict[str, ImageInfo]


def prepare_data(settings: DataSettings, seed: int) -> PreparedData:
    """What can be trained on, after `on_unreadable` and `on_leak` were applied.

    Raises:
        HeadstartError: the folder is not laid out as one of images, a policy forbids training on it, or a class lacks
            images.
    """
    data = inspect_data(settings, seed)
    scan, infos, skipped = data.scan, data.infos, data.manifest.skipped
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
    manifest = build_manifest(scan, infos, skipped=skipped, dropped=dropped)
    log.info("%s", manifest.describe())
    check_trainable(manifest, scan)
    return PreparedData(manifest, scan, infos)


def inspect_data(settings: DataSettings, seed: int) -> PreparedData:
    """Every usable image, whether or not it can be trained on.

    Raises:
        HeadstartError: the folder is not laid out as one of images.
    """
    scan = scan_folder(settings.root, settings.split, seed, settings.layout)
    infos = inspect_images(scan.root, [sample.path for sample in scan.samples])
    skipped = (*scan.unreadable, *(path for path, info in infos.items() if info.fault is not None))
    return PreparedData(build_manifest(scan, infos, skipped=skipped, dropped=()), scan, infos)


def _why_skipped(path: str, scan: Scan, infos: dict[str, ImageInfo]) -> str:
    if path in scan.unreadable:
        return f"the folder {scan.root / path} cannot be read: {scan.unreadable[path]}"
    return f"{scan.root / path} cannot be read as an image: {infos[path].reason}"
