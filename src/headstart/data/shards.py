"""Images in WebDataset's tar shards, read in place: KEY.jpg, and its class in KEY.cls or KEY.json.

https://github.com/webdataset/webdataset describes the format.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from headstart.data.archives import Entry, open_archive
from headstart.data.folders import image_extensions, read_file
from headstart.data.labels import INCOMPLETE, Labels, Problem
from headstart.data.layout import SPLIT_OF, open_root, words_of
from headstart.data.splits import Images
from headstart.data.storage import is_remote
from headstart.errors import HeadstartError
from headstart.files import is_visible
from headstart.text import counted, on_one_line

SUFFIX, CLASS, VALUES = ".tar", "cls", "json"
# The names of classes that .cls files number from 0, one per line, as clip-benchmark has it beside its shards.
CLASS_NAMES = "classnames.txt"


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
    splits = {shard: _split_of(shard.relative_to(root)) for shard in shards}
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


def _split_of(path: Path) -> str:
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
