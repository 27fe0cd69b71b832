"""export.format=bundle: a checkpoint that holds its backbone's weights, so that it predicts without any other file."""

import os
from pathlib import Path

from headstart.config.model import EncoderSettings
from headstart.errors import HeadstartError
from headstart.files import replacing
from headstart.log import log, shown
from headstart.model.checkpoint import HELD, bundle_of, load_ensemble, read_members, save


def write_bundle(checkpoint: Path, path: Path, moved_to: str | None) -> None:
    """Writes the bundle of a checkpoint, or of an ensemble with the record `checkpoint`, to `path`.

    It is loaded again, with nothing else at hand, before it gets its name. If `moved_to` is a file, the backbone's
    weights come from there.

    Raises:
        HeadstartError: the weights are missing or different, the architecture cannot be built without other files, or
            `path` is something else than a bundle.
    """
    if os.path.lexists(path) and not _is_bundle(path):
        raise HeadstartError(
            f"{path} is not a bundle that headstart wrote, so it is not replaced: move it elsewhere, or choose another "
            "file with export.path=FILE"
        )
    with replacing(path) as temporary:
        save(bundle_of(checkpoint, moved_to), temporary)
        load_ensemble([temporary], EncoderSettings(precision="32", compile=False), None)
    size = path.stat().st_size / 1e6
    log.info("%s: %.1f MB, with the backbone's weights; it predicts without any other file", shown(path), size)


def _is_bundle(path: Path) -> bool:
    try:
        return all(HELD in member for member in read_members(path))
    except HeadstartError:
        return False
