"""Which images a CSV names, with their labels, splits and groups, and what is wrong with its rows.

The samples of WebDataset's tar shards are read in place, in the same way: KEY.jpg, and its class in KEY.cls or
KEY.json. https://github.com/webdataset/webdataset describes the format.
"""

import json
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from headstart.config.data import AUTO, ColumnSettings
from headstart.data.archives import Entry, open_archive
from headstart.data.folders import (
    exists,
    image_extensions,
    is_image_name,
    is_in_archive,
    list_folder,
    listed,
    read_file,
)
from headstart.data.layout import SPLIT_OF, open_root, words_of
from headstart.data.splits import SPLITS, Images
from headstart.data.table import Table, read_table
from headstart.errors import HeadstartError
from headstart.files import is_visible
from headstart.storage import is_remote
from headstart.text import counted, is_url, named, on_one_line, visible, with_odd_character

GROUP, SPLIT = "group", "split"  # what AUTO looks for
# Kinds of findings. Those of CONFLICTS cannot be skipped, because nobody knows what is right.
INCOMPLETE, DUPLICATE = "incomplete row", "duplicate rows"
CONFLICTING_LABELS, CONFLICTING_ROWS = "conflicting labels", "conflicting rows"
CONFLICTS = (CONFLICTING_LABELS, CONFLICTING_ROWS)
# Between several labels in one cell.
SEPARATORS = re.compile(r"\s*[|;,]\s*")
ONE_HOT = {"0", "1", "0.0", "1.0"}
SUFFIX, CLASS, VALUES = ".tar", "cls", "json"
# The names of classes that .cls files number from 0, one per line, as clip-benchmark has it beside its shards.
CLASS_NAMES = "classnames.txt"


class Row(NamedTuple):
    """What a row says about one image; `path` is a POSIX path relative to the root, and "" where there is none."""

    line: int
    path: str
    label: str
    split: str
    group: str


class Problem(NamedTuple):
    """What is wrong with a row, or with rows of one path: a kind of finding, the path or "", and details."""

    kind: str
    path: str
    says: str


@dataclass(frozen=True)
class Labels:
    """The images that a CSV names, by split, or under "" if it has no column for that.

    `groups` has the group of each image that has one; None: there is no column for it. `notes` are what the user should
    know about how the table is read.
    """

    images: dict[str, Images]
    groups: dict[str, str] | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()


def read_labels(
    path: Path,
    root: Path,
    columns: ColumnSettings,
    group: str | None,
    *,
    encoding: str = AUTO,
    missing: Iterable[object] = (),
) -> Labels:
    """Reads a CSV with one row per image. `encoding` is data.encoding, `missing` data.missing: cells that say nothing.

    Raises:
        HeadstartError: it lacks a column, names no image, or gives an image a split that is none or several labels.
    """
    if not exists(path):
        beside = f" (there is {root / path.name}: set data.csv to it)" if exists(root / path.name) else ""
        raise HeadstartError(f"data.csv={path} does not exist{beside}")
    places = [_Files(root), *([_Files(open_root(root).path)] if is_in_archive(root) else [])]
    finder = _FileFinder(path, root, places)
    table = read_table(path, (columns.path, columns.label), encoding, finder.exists)
    split, group = _optional(table, columns.split, SPLIT, "data.columns.split"), _optional(table, group, GROUP)
    rows = list(_rows(table, finder, columns, split, group, missing))
    _check_single_labels(path, rows)
    incomplete = [
        Problem(INCOMPLETE, row.path, f"line {row.line} has no {' and no '.join(lacking)}")
        for row in rows
        if (lacking := [name for name in ("path", "label") if not getattr(row, name)])
    ]
    kept, problems = _one_per_path([row for row in rows if row.path and row.label])
    if not kept:
        raise HeadstartError(f"{path} names no image with a label: it needs one row per image")
    return Labels(
        _by_split(path, kept, has_splits=split is not None),
        {row.path: row.group for row in kept if row.group} if group is not None else None,
        (*incomplete, *problems),
        tuple(filter(None, (table.note, finder.note))),
    )


def _optional(table: Table, name: str | None, usual: str, key: str = "data.group") -> str | None:
    """The name of a column that the table has; None: no column is wanted, or AUTO finds none."""
    if name == AUTO:
        return usual if table.has(usual) else None
    if name is not None and not table.has(name):
        raise HeadstartError(f"{table.path} has no column '{name}' ({key}): it has {_header(table)}")
    return name


def _rows(
    table: Table,
    finder: "_FileFinder",
    columns: ColumnSettings,
    split: str | None,
    group: str | None,
    missing: Iterable[object],
) -> Iterator[Row]:
    for name, key in ((columns.path, "path"), (columns.label, "label")):
        if not table.has(name):
            raise HeadstartError(_why_no_column(table, name, key, (columns.path, split, group)))
    # YAML reads null and nan as something else than texts.
    empty = {"null" if cell is None else str(cell).strip().casefold() for cell in missing}
    nothing = ("",) * len(table.rows)
    wanted = [columns.path, columns.label, split, group]
    cells = [table.column(name) if name is not None else nothing for name in wanted]
    for line, *row in zip(table.lines, *cells, strict=True):
        path, label, in_split, in_group = ("" if cell.strip().casefold() in empty else cell for cell in row)
        yield Row(line, finder.path_of(path, line), label, in_split, in_group)


def _why_no_column(table: Table, name: str, key: str, others: tuple[str | None, ...]) -> str:
    rest = [own for own in table.header if own and table.has(own) and own not in others]
    one_hot = [own for own in rest if set(table.column(own)) <= ONE_HOT] if table.rows else []
    if key == "label" and len(one_hot) > 1:
        return (
            f"{table.path} has no column '{name}', but one column per class ({listed(one_hot)}): write the name of the "
            "class into one column; several labels per image are not supported"
        )
    return f"{table.path} has no column '{name}': set data.columns.{key} to the right one; it has {_header(table)}"


def _header(table: Table) -> str:
    return "the columns " + listed(f"'{name}'" for name in table.header)


class _FileFinder:
    """Finds the files that the cells of the table at `table` mean, and counts those that are called otherwise.

    `places` are the folders that the paths may be relative to: `root` first, in an archive also the folder in it.
    """

    def __init__(self, table: Path, root: Path, places: list["_Files"]) -> None:
        self._table, self._root, self._places = table, root, places
        self._others: list[tuple[str, str]] = []  # cells, and the files that they mean but do not spell exactly

    @property
    def note(self) -> str:
        """How many of the files are not called as the table says, with an example."""
        if not self._others:
            return ""
        cell, file = self._others[0]
        count = counted(len(self._others), "path is that of a file", "paths are those of files")
        return f"{self._table}: {count} called otherwise ('{on_one_line(cell)}': {on_one_line(file)})"

    def path_of(self, cell: str, line: int) -> str:
        """Returns the POSIX path relative to the root for a cell, which may be written as on Windows, or absolute."""
        if not cell.strip():
            return ""
        given, cell = cell, self._below_url(cell)
        for text in dict.fromkeys((cell, cell.strip(), cell.replace("\\", "/").strip())):
            path = os.path.normpath(text)
            path = self._below_root(path) if os.path.isabs(path) else path
            file = self._find(path) or self._find(self._below_root(self._table.parent / text))
            if file is not None:
                self._others += [(cell, file)] if file != path else []
                return file
        if path.split("/")[0] == ".." or PureWindowsPath(path).drive or is_url(path):
            raise HeadstartError(
                f"{self._table}, line {line}: {given} is not in data.root={self._root}, to which paths are relative"
            )
        return path

    def exists(self, cell: str) -> bool:
        """Whether there is a file that a cell means, which is not counted."""
        cell = self._below_url(cell)
        return any(self._find(text) is not None for text in (cell, cell.replace("\\", "/")))

    def _below_url(self, cell: str) -> str:
        """The path below a remote root that the URL in a cell means."""
        return cell.strip().removeprefix(f"{named(str(self._root))}/") if is_url(cell.strip()) else cell

    def _below_root(self, path: str | Path) -> str:
        return os.path.relpath(os.path.abspath(path), os.path.abspath(self._root))

    def _find(self, path: str) -> str | None:
        if path.split("/")[0] == "..":
            return None
        return next(filter(None, (files.find(path) for files in self._places)), None)


class _Files:
    """The files below `root` by the spellings that tables have for them. Each folder is listed once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[str, frozenset[str]] = {}
        self._spellings: dict[str, dict[str, list[str]]] = {}

    def find(self, path: str) -> str | None:
        """Returns the path of the file that is called so, or of the only one that is but for what `_spelling` ignores.

        A name may lack the extension of an image. None: there is no such file, or there are several.
        """
        above = ""
        parts = path.split("/")
        for place, part in enumerate(parts, start=1):
            name = part if part in self._names(above) else self._meant(above, part, is_file=place == len(parts))
            if name is None:
                return None
            above = f"{above}/{name}" if above else name
        return above

    def _names(self, folder: str) -> frozenset[str]:
        if folder not in self._folders:
            try:
                self._folders[folder] = frozenset(entry.name for entry in list_folder(self._root / folder))
            except OSError:
                self._folders[folder] = frozenset()
        return self._folders[folder]

    def _meant(self, folder: str, part: str, *, is_file: bool) -> str | None:
        """The only name in the folder that is spelled like `part`, or else, without its extension, the only image's."""
        if folder not in self._spellings:
            spellings = self._spellings[folder] = dict[str, list[str]]()
            for name in self._names(folder):
                spellings.setdefault(_spelling(name), []).append(name)
                if is_image_name(name):
                    spellings.setdefault(f"{_spelling(os.path.splitext(name)[0])}/", []).append(name)
        spellings = self._spellings[folder]
        names = spellings.get(_spelling(part)) or (spellings.get(f"{_spelling(part)}/", []) if is_file else [])
        return names[0] if len(names) == 1 else None


def _spelling(name: str) -> str:
    """The name without case, spaces at its ends, and the ways in which Unicode encodes the same letters."""
    return unicodedata.normalize("NFC", name.strip().casefold())


def _check_single_labels(path: Path, rows: list[Row]) -> None:
    """Raises HeadstartError if a cell holds several of the labels of other rows."""
    labels = {row.label for row in rows}
    for row in rows:
        parts = SEPARATORS.split(row.label)
        # A folder of that name is one class, as split.csv has it.
        if len(parts) > 1 and labels.issuperset(parts) and row.label not in row.path.split("/"):
            raise HeadstartError(
                f"{path}, line {row.line}, gives {row.path} several labels ({row.label}): "
                "several labels per image are not supported; keep the main one"
            )


def _one_per_path(rows: list[Row]) -> tuple[list[Row], list[Problem]]:
    """One row of each path whose rows agree, and what is wrong with the others."""
    by_path: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_path[row.path].append(row)
    problems = [_problem_of(same) for same in by_path.values() if len(same) > 1]
    conflicting = {problem.path for problem in problems if problem.kind in CONFLICTS}
    return [same[0] for path, same in by_path.items() if path not in conflicting], problems


def _problem_of(rows: list[Row]) -> Problem:
    """What is wrong with several rows of one path."""
    for kind, column in ((CONFLICTING_LABELS, "label"), (CONFLICTING_ROWS, "split"), (CONFLICTING_ROWS, "group")):
        cells = {getattr(row, column): row.line for row in reversed(rows)}
        if len(cells) > 1:
            shown = [f"{cell or f'no {column}'} (line {line})" for cell, line in reversed(cells.items())]
            return Problem(kind, rows[0].path, f"{column} {listed(shown)}")
    return Problem(DUPLICATE, rows[0].path, f"lines {listed(str(row.line) for row in rows)}; it is used once")


def _by_split(path: Path, rows: list[Row], *, has_splits: bool) -> dict[str, Images]:
    images: dict[str, Images] = {}
    for row in sorted(rows, key=lambda row: (row.label, row.path)):
        split = _split_of(path, row) if has_splits else ""
        images.setdefault(split, {}).setdefault(row.label, []).append(row.path)
    if has_splits and "train" not in images:
        raise HeadstartError(f"{path} has no row of the train split: data.columns.split=null splits all images anew")
    return {split: images[split] for split in (*SPLITS, "") if split in images}


def _split_of(path: Path, row: Row) -> str:
    split = SPLIT_OF.get(visible(row.split), "")
    if split not in SPLITS:
        given = f"the split {with_odd_character(row.split, ())}" if row.split else "no split"
        raise HeadstartError(
            f"{path}, line {row.line}, gives {row.path} {given}: it must be train, valid or test; "
            "data.columns.split=null splits all images anew"
        )
    return split


class _Sample(NamedTuple):
    """An image in a shard, by its path relative to the root, with what is said about it; "" if nothing is."""

    path: str
    label: str
    says: str


def read_shards(root: Path, column: str) -> Labels:
    """Returns the images of the shards in the folder `root` with their labels, by split, or under "" without splits.

    The split of a shard is in its name, or in that of a folder: `train-0001.tar`, `val/0001.tar`.

    Args:
        column: the key of the label in a .json file, where there is no .cls file.

    Raises:
        HeadstartError: there are no shards or no labelled images in them, one is damaged or remote, or only some have a
            split.
    """
    if is_remote(root):
        raise HeadstartError(f"data.root={root}: shards are read from local files, so download them first")
    paths = [folder.path / name for folder in open_root(root).tree[0] for name in folder.files]
    shards = sorted(path for path in paths if path.suffix.lower() == SUFFIX)
    if not shards:
        raise HeadstartError(f"data.root={root} holds no tar shards: give the folder with shards such as 0001{SUFFIX}")
    splits = {shard: _split_of_shard(shard.relative_to(root)) for shard in shards}
    if "" in splits.values() and any(splits.values()):
        which = next(shard for shard, split in splits.items() if not split)
        raise HeadstartError(f"{which} is of no split, unlike other shards in {root}: give all of them one, or none")
    names = _class_names(root / CLASS_NAMES) if root / CLASS_NAMES in paths else None
    images: dict[str, Images] = defaultdict(lambda: defaultdict(list))
    problems = []
    for shard, split in splits.items():
        for path, label, says in _samples(shard, shard.relative_to(root).as_posix(), column):
            if label:
                images[split][label if names is None else _name_of(label, names, path)].append(path)
            else:
                problems.append(Problem(INCOMPLETE, path, says))
    if not images:
        reason = f" ({problems[0].path}: {problems[0].says})" if problems else ""
        raise HeadstartError(f"the shards in {root} have no image with a label{reason}")
    by_class = {split: {name: sorted(of[name]) for name in sorted(of)} for split, of in images.items()}
    return Labels(by_class, None, tuple(problems), (f"{counted(len(shards), 'shard')} of WebDataset",))


def _split_of_shard(path: Path) -> str:
    """The split that a shard's name, or a folder's, says; "" if none or several do."""
    splits = {SPLIT_OF[word] for part in path.with_suffix("").parts for word in words_of(part) if word in SPLIT_OF}
    return {"held out": "test"}.get(split := splits.pop(), split) if len(splits) == 1 else ""


def _samples(shard: Path, place: str, column: str) -> Iterator[_Sample]:
    """Yields the images of a shard. What comes before the first dot of a file's name is the key of its sample."""
    archive, extensions, folders = open_archive(str(shard)), image_extensions(), [""]
    while folders:
        inner = folders.pop()
        entries = archive.entries(inner)
        folders += [f"{inner}{entry.name}/" for entry in entries if entry.is_folder]
        samples: dict[str, dict[str, Entry]] = defaultdict(dict)
        for entry in entries:
            if entry.is_file:
                key, _, extension = entry.name.partition(".")
                samples[key][extension.lower()] = entry
        for of_key in samples.values():
            for extension, entry in of_key.items():
                # Hidden files do not count, nor does a second image, such as KEY.mask.png.
                if f".{extension}" in extensions and is_visible(entry.name):
                    label, says = _label_of(archive.read, inner, of_key, column)
                    yield _Sample(f"{place}/{inner}{entry.name}", label, says)


def _label_of(read: Any, inner: str, files: dict[str, Entry], column: str) -> tuple[str, str]:
    """The label of a sample; "" and why, if it has none."""
    if entry := files.get(CLASS):
        return on_one_line(read(inner + entry.name).decode("utf-8", "replace").strip()), f"{entry.name} is empty"
    if entry := files.get(VALUES):
        try:
            value = json.loads(read(inner + entry.name))[column]
        except (ValueError, KeyError, TypeError):
            return "", f"{entry.name} has no '{column}' (data.columns.label)"
        if isinstance(value, str | int) and not isinstance(value, bool):
            return on_one_line(str(value).strip()), f"'{column}' of {entry.name} is empty"
        return "", f"'{column}' of {entry.name} is not one label"
    return "", f"it has neither .{CLASS} nor .{VALUES}"


def _class_names(path: Path) -> list[str]:
    return [on_one_line(line.strip()) for line in read_file(path).decode("utf-8", "replace").splitlines()]


def _name_of(label: str, names: list[str], path: str) -> str:
    """The class name that a number stands for; a label that is one of the names is one itself."""
    if label.isdecimal() and int(label) < len(names):
        return names[int(label)]
    if label in names:
        return label
    raise HeadstartError(f"the label '{label}' of {path} is neither a line number of {CLASS_NAMES} nor a name in it")
