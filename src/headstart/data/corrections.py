"""corrections.csv: labels that were corrected, and images that were left out or added, after somebody looked at them.

The images themselves are never touched. A correction belongs to the content of a file: one that was moved or renamed
keeps its own, and one that was changed since loses it. An image that is added is read where it is.
"""

import csv
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from headstart.config.checks import nearest
from headstart.config.data import NO_CORRECTIONS, DataSettings
from headstart.data.folders import exists
from headstart.data.image_info import MISSING, ImageInfo
from headstart.data.scan import Sample, Scan
from headstart.errors import HeadstartError, listed
from headstart.files import write_csv
from headstart.log import log
from headstart.storage import is_remote
from headstart.text import is_url

# The name of the file that is found beside the images.
FILE = "corrections.csv"
RELABEL, KEEP, LEAVE_OUT, ADD = ACTIONS = "relabel", "keep", "leave_out", "add"
REQUIRED = ("path", "action")
COLUMNS = ("path", "sha256", "action", "label", "when", "run")


class Correction(NamedTuple):
    """One row: what to do with the image of this content or, without a SHA-256, of this path.

    The path is relative to the root of the images. That of an image to add is absolute, or relative to the folder of
    the file that the row is in.
    """

    path: str
    sha256: str
    action: str
    label: str
    when: str = ""
    run: str = ""


@dataclass(frozen=True)
class Corrections:
    """The rows of `file`. `added` are those that add an image, each with the path by which it becomes a sample."""

    file: Path
    rows: Sequence[Correction]
    added: Mapping[Correction, str]


@dataclass(frozen=True)
class Matched:
    """The corrections by the paths of the images, and those that are not used: of which files, by the reason."""

    by_path: Mapping[str, Correction] = field(default_factory=dict)
    unused: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def count(self, action: str) -> int:
        """Returns how many images the action is for."""
        return sum(correction.action == action for correction in self.by_path.values())


def usual_file(settings: DataSettings) -> Path:
    """Returns where the corrections of `settings.root` are, unless `data.corrections` says it: beside the images.

    Raises:
        HeadstartError: they are remote.
    """
    if is_url(settings.root):
        raise HeadstartError(f"{settings.root} is not written to: say where to write with data.corrections=FILE")
    root = Path(settings.root).expanduser()
    return (root if root.is_dir() else root.parent) / FILE


def corrections_file(settings: DataSettings) -> Path | None:
    """Returns the file with the corrections of `settings.root`; None: there are none."""
    if settings.corrections == NO_CORRECTIONS:
        return None
    if settings.corrections is not None:
        return Path(settings.corrections).expanduser()
    if is_remote(settings.root):
        return None
    found = usual_file(settings)
    if not found.is_file() or (settings.csv is not None and found.samefile(Path(settings.csv).expanduser())):
        return None
    if missing := set(REQUIRED) - set(_header(found)):
        log.warning("%s is not used: it has no column %s (data.corrections=none: do not look)", found, listed(missing))
        return None
    return found


def read_corrections(path: Path) -> list[Correction]:
    """Reads a table with the columns path and action and, optionally, sha256, label, when and run.

    Raises:
        HeadstartError: the file cannot be read, or a row is invalid; the message names its line.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in REQUIRED if name not in (reader.fieldnames or ())]:
                raise HeadstartError(f"{path} has no column {listed(missing)}: its columns are {', '.join(COLUMNS)}")
            return [_correction(path, reader.line_num, row) for row in reader]
    except OSError as error:
        raise HeadstartError(f"{path}, the file with corrections, cannot be read: {error.strerror}") from None
    except csv.Error as error:
        raise HeadstartError(f"{path} is no table of corrections: {error}") from None


def write_corrections(path: Path, corrections: Sequence[Correction]) -> None:
    """Writes the table that `read_corrections` reads; until it is complete, an earlier one stays as it is."""
    write_csv(path, COLUMNS, corrections)


def load_corrections(settings: DataSettings, root: Path) -> Corrections | None:
    """Returns the corrections of the images in `root`, which `settings` describe; None: there is no file with any.

    Raises:
        HeadstartError: as `read_corrections`.
    """
    if (file := corrections_file(settings)) is None:
        return None
    rows = read_corrections(file)
    added = {row: _sample_path(row.path, file.parent, root) for row in rows if row.action == ADD}
    return Corrections(file, rows, added)


def apply_corrections(scan: Scan, infos: Mapping[str, ImageInfo], corrections: Corrections) -> Scan:
    """Returns the scan with its corrections, in place of what its samples were before.

    Added images are in train only, so that what other splits measure can be compared. Their features are stored with
    those of the same run that they were labelled for: `Scan.added` has its name.

    Args:
        infos: what is known about the samples of the scan, and about the images to add.

    Raises:
        HeadstartError: a correction names a class that the images do not have.
    """
    path, classes = corrections.file, {name for names in scan.classes.values() for name in names}
    for correction in corrections.rows:
        if correction.action in (RELABEL, ADD) and correction.label not in classes:
            raise HeadstartError(
                f"{path}: the label '{correction.label}' of {correction.path} is no class of {scan.root}"
                f"{nearest(correction.label, sorted(classes))}"
            )
    added = _to_add(corrections, infos, {infos[sample.path].sha256 for sample in scan.samples})
    before = (*scan.samples, *(Sample("train", c.label, path) for path, c in added.by_path.items()))
    others = [correction for correction in corrections.rows if correction.action != ADD]
    matched = _matched(path, others, {sample.path: infos[sample.path].sha256 for sample in before})
    samples = [_corrected(sample, matched.by_path.get(sample.path)) for sample in before]
    left_out = {path: f"left out by {FILE}" for path, c in matched.by_path.items() if c.action == LEAVE_OUT}
    return replace(
        scan,
        samples=tuple(sample for sample in samples if sample is not None),
        uncorrected=before,
        added={path: correction.run for path, correction in added.by_path.items()},
        left_out=scan.left_out | left_out,
        table_notes=(*scan.table_notes, _description(path, matched, added)),
    )


def _description(file: Path, matched: Matched, added: Matched) -> str:
    """How many labels were corrected, images left out and added, and which corrections are not used."""
    parts = [f"labels corrected: {matched.count(RELABEL)}", f"images left out: {matched.count(LEAVE_OUT)}"]
    parts += [f"images added: {added.count(ADD)}"] * bool(added.by_path)
    for of in (matched, added):
        parts += [f"not used, {reason}: {listed(paths)}" for reason, paths in of.unused.items() if paths]
    return f"{file}: {'; '.join(parts)}"


def _sample_path(path: str, folder: Path, root: Path) -> str:
    """The path of an image to add, as those of samples are: relative to the root if it was written so, or absolute."""
    return path if os.path.realpath(folder) == os.path.realpath(root) else os.path.abspath(folder / path)


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return next(csv.reader(file), [])
    except (OSError, csv.Error):
        return []


def _correction(path: Path, line: int, row: Mapping[str, str | None]) -> Correction:
    correction = Correction(*((row.get(name) or "") for name in COLUMNS))
    if "\0" in correction.path:
        raise HeadstartError(f"{path}, line {line}: the path has a NUL character, which no file has")
    if correction.action not in ACTIONS:
        raise HeadstartError(f"{path}, line {line}: the action '{correction.action}' is none of {listed(ACTIONS)}")
    if correction.action in (RELABEL, ADD) and not correction.label:
        what = "relabelled" if correction.action == RELABEL else "added"
        raise HeadstartError(f"{path}, line {line}: {correction.path} is to be {what}, and the label is missing")
    return correction


def _to_add(corrections: Corrections, infos: Mapping[str, ImageInfo], known: Collection[str]) -> Matched:
    """Finds the images to add that can be, and are not among the `known` contents of the data."""
    unused: dict[str, list[str]] = {"changed since": [], "gone": [], "unreadable": [], "in the data": []}
    places: dict[str, dict[str, Correction]] = {}
    for correction, path in corrections.added.items():
        info = infos[path]
        if info.fault is not None:
            unused["gone" if info.fault == MISSING else "unreadable"].append(correction.path)
        elif correction.sha256 not in ("", info.sha256):
            unused["changed since"].append(correction.path)
        elif info.sha256 in known:
            unused["in the data"].append(correction.path)
        else:
            places.setdefault(info.sha256, {})[path] = correction
    contradictory = [of for of in places.values() if len({correction.label for correction in of.values()}) > 1]
    unused["contradictory"] = [correction.path for of in contradictory for correction in of.values()]
    # Copies of one image are added once.
    return Matched(dict(min(of.items()) for of in places.values() if of not in contradictory), unused)


def _matched(file: Path, corrections: Sequence[Correction], contents: Mapping[str, str]) -> Matched:
    """Finds the images of the corrections in `file` among `contents`, the SHA-256 of the paths."""
    places: dict[str, list[str]] = {}
    for path, sha256 in contents.items():
        places.setdefault(sha256, []).append(path)
    of_path: dict[str, list[Correction]] = {}
    unused: dict[str, list[str]] = {"changed since": [], "gone": [], "contradictory": []}
    for correction in corrections:
        by_name = [correction.path] if correction.path in contents else []
        paths = places.get(correction.sha256, []) if correction.sha256 else by_name
        for path in paths:
            of_path.setdefault(path, []).append(correction)
        # An image that was left out when it might have been added is not missed.
        if not paths and not (correction.action == LEAVE_OUT and exists(file.parent / correction.path)):
            unused["changed since" if by_name else "gone"].append(correction.path)
    chosen = {}
    for path, several in of_path.items():
        if len({(correction.action, correction.label) for correction in several}) == 1:
            chosen[path] = several[0]
        else:
            unused["contradictory"].append(path)
    return Matched(chosen, unused)


def _corrected(sample: Sample, correction: Correction | None) -> Sample | None:
    """Returns the sample with its new class; None: it is left out."""
    if correction is None or correction.action == KEEP:
        return sample
    return sample._replace(class_name=correction.label) if correction.action == RELABEL else None
