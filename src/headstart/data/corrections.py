"""corrections.csv: labels that were corrected, and images that were left out, after somebody looked at them.

The images themselves are never touched. A correction belongs to the content of a file: one that was moved or renamed
keeps its own, and one that was changed since loses it.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from headstart.config.checks import nearest
from headstart.config.data import NO_CORRECTIONS, DataSettings
from headstart.data.image_info import ImageInfo
from headstart.data.scan import Sample, Scan
from headstart.errors import HeadstartError, listed
from headstart.files import write_csv
from headstart.log import log

# The name of the file that is found beside the images.
FILE = "corrections.csv"
RELABEL, KEEP, LEAVE_OUT = ACTIONS = "relabel", "keep", "leave_out"
REQUIRED = ("path", "action")
COLUMNS = ("path", "sha256", "action", "label", "when", "run")


class Correction(NamedTuple):
    """One row: what to do with the image of this content or, without a SHA-256, of this path."""

    path: str
    sha256: str
    action: str
    label: str
    when: str = ""
    run: str = ""


@dataclass(frozen=True)
class Matched:
    """The corrections by the paths of the images, and those that are not used: of which files, by the reason."""

    file: Path
    by_path: Mapping[str, Correction] = field(default_factory=dict)
    unused: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def describe(self) -> str:
        """Returns how many labels were corrected and images left out, and which corrections are not used."""
        counts = {action: sum(c.action == action for c in self.by_path.values()) for action in ACTIONS}
        parts = [f"labels corrected: {counts[RELABEL]}", f"images left out: {counts[LEAVE_OUT]}"]
        parts += [f"not used, {reason}: {listed(paths)}" for reason, paths in self.unused.items() if paths]
        return f"{self.file}: {'; '.join(parts)}"


def usual_file(settings: DataSettings) -> Path:
    """Returns where the corrections of `settings.root` are, unless `data.corrections` says it: beside the images."""
    root = Path(settings.root).expanduser()
    return (root if root.is_dir() else root.parent) / FILE


def corrections_file(settings: DataSettings) -> Path | None:
    """Returns the file with the corrections of `settings.root`; None: there are none."""
    if settings.corrections == NO_CORRECTIONS:
        return None
    if settings.corrections is not None:
        return Path(settings.corrections).expanduser()
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


def apply_corrections(scan: Scan, infos: Mapping[str, ImageInfo], path: Path) -> Scan:
    """Returns the scan with the corrections in the file at `path`, in place of what its samples were before.

    Raises:
        HeadstartError: the file is invalid, or names a class that the images do not have.
    """
    classes = {name for names in scan.classes.values() for name in names}
    corrections = read_corrections(path)
    for correction in corrections:
        if correction.action == RELABEL and correction.label not in classes:
            raise HeadstartError(
                f"{path}: the label '{correction.label}' of {correction.path} is no class of {scan.root}"
                f"{nearest(correction.label, sorted(classes))}"
            )
    matched = _matched(path, corrections, {s.path: infos[s.path].sha256 for s in scan.samples if s.path in infos})
    samples = [_corrected(sample, matched.by_path.get(sample.path)) for sample in scan.samples]
    left_out = {path: f"left out by {FILE}" for path, c in matched.by_path.items() if c.action == LEAVE_OUT}
    return replace(
        scan,
        samples=tuple(sample for sample in samples if sample is not None),
        uncorrected=scan.samples,
        left_out=scan.left_out | left_out,
        table_notes=(*scan.table_notes, matched.describe()),
    )


def _header(path: Path) -> list[str]:
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            return next(csv.reader(file), [])
    except (OSError, csv.Error):
        return []


def _correction(path: Path, line: int, row: Mapping[str, str | None]) -> Correction:
    correction = Correction(*((row.get(name) or "") for name in COLUMNS))
    if correction.action not in ACTIONS:
        raise HeadstartError(f"{path}, line {line}: the action '{correction.action}' is none of {listed(ACTIONS)}")
    if correction.action == RELABEL and not correction.label:
        raise HeadstartError(f"{path}, line {line}: {correction.path} is to be relabelled, and the label is missing")
    return correction


def _matched(file: Path, corrections: Sequence[Correction], contents: Mapping[str, str]) -> Matched:
    """Finds the images of the corrections among `contents`, the SHA-256 of the paths."""
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
        if not paths:
            unused["changed since" if by_name else "gone"].append(correction.path)
    chosen = {}
    for path, several in of_path.items():
        if len({(correction.action, correction.label) for correction in several}) == 1:
            chosen[path] = several[0]
        else:
            unused["contradictory"].append(path)
    return Matched(file, chosen, unused)


def _corrected(sample: Sample, correction: Correction | None) -> Sample | None:
    """Returns the sample with its new class; None: it is left out."""
    if correction is None or correction.action == KEEP:
        return sample
    return sample._replace(class_name=correction.label) if correction.action == RELABEL else None
