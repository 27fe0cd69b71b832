"""What a run trains and tests on: the classes, and the samples of each split."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from headstart.data.inspection import Facts
from headstart.data.listing import Listing
from headstart.errors import HeadstartError


@dataclass(frozen=True)
class Split:
    """The samples of one split in their fixed order.

    `paths` are relative to `root`, `labels` are indices of the class list, `contents` are the files' SHA-256.
    """

    root: Path
    paths: tuple[str, ...]
    labels: tuple[int, ...]
    contents: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the paths, labels and contents of all samples.

        Of contents rather than times, so that a copy of the data has the same fingerprint and a picture that was
        changed without a trace in its times has another.
        """
        total = hashlib.sha256()
        for path, label, content in zip(self.paths, self.labels, self.contents, strict=True):
            total.update(f"{path}\0{label}\0{content}\n".encode(errors="surrogateescape"))
        return total.hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The class list, which is the train split's, and the splits: train, valid and, where there is one, test."""

    root: Path
    classes: tuple[str, ...]
    splits: dict[str, Split]
    left_out: tuple[str, ...]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the class list and the fingerprints of all splits."""
        parts = [*self.classes, *(f"{name}={split.fingerprint}" for name, split in self.splits.items())]
        return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()

    def counts(self) -> dict[str, int]:
        """Pictures a split."""
        return {name: len(split) for name, split in self.splits.items()}

    def class_counts(self) -> tuple[int, ...]:
        """Pictures a class in the train split."""
        counts = Counter(self.splits["train"].labels)
        return tuple(counts[label] for label in range(len(self.classes)))

    def describe(self) -> str:
        """One line for the terminal, with what was left out."""
        counts = ", ".join(f"{count} {name}" for name, count in self.counts().items())
        line = f"{self.root}: {len(self.classes)} classes, {counts} pictures"
        if self.left_out:
            kinds = Counter(Path(path).suffix or Path(path).name for path in self.left_out)
            named = ", ".join(f"{kind} ×{count}" for kind, count in kinds.most_common(5))
            line += f"; {len(self.left_out)} other files left out ({named})"
        return line


def build_manifest(listing: Listing, facts: dict[str, Facts]) -> Manifest:
    """The manifest of what is listed; `facts` are of each path. Each class must be in each split.

    Raises:
        HeadstartError: says what the folder lacks, with its name.
    """
    _check_classes(listing)
    for split, pictures in listing.pictures.items():
        for name, paths in pictures.items():
            if not paths:
                raise HeadstartError(_why_empty(listing, split, name))
    return describe_listing(listing, facts)


def describe_listing(listing: Listing, facts: dict[str, Facts]) -> Manifest:
    """As `build_manifest`, of any listing: classes may be missing in a split, or in train."""
    found = {name for pictures in listing.pictures.values() for name in pictures}
    classes = (*listing.pictures["train"], *sorted(found - set(listing.pictures["train"])))
    splits = {}
    for split, pictures in listing.pictures.items():
        labelled = [(path, label) for label, name in enumerate(classes) for path in pictures.get(name, [])]
        paths, labels = tuple(path for path, _ in labelled), tuple(label for _, label in labelled)
        splits[split] = Split(listing.root, paths, labels, tuple(facts[path].sha256 for path in paths))
    return Manifest(listing.root, classes, splits, listing.left_out)


def _check_classes(listing: Listing) -> None:
    expected = set(listing.pictures["train"])
    if len(expected) < 2:
        folder = listing.folders.get("train", listing.root)
        raise HeadstartError(f"{folder} has one class only ({', '.join(expected)}): to tell classes apart it takes two")
    for split, pictures in listing.pictures.items():
        missing, extra = sorted(expected - set(pictures)), sorted(set(pictures) - expected)
        if missing:
            raise HeadstartError(
                f"{listing.folders[split]} lacks the class folders {', '.join(missing)}, "
                f"which {listing.folders['train']} has"
            )
        if extra:
            raise HeadstartError(
                f"{listing.folders[split]} has the class folders {', '.join(extra)}, "
                f"which {listing.folders['train']} lacks"
            )


def _why_empty(listing: Listing, split: str, name: str) -> str:
    count = sum(len(pictures[name]) for pictures in listing.pictures.values())
    if split in listing.folders or not count:
        return f"the class folder {listing.folders.get(split, listing.root) / name} holds no pictures that can be used"
    return (
        f"data.split.train={listing.rule.train} data.split.valid={listing.rule.valid} leave none of the {count} "
        f"pictures of class '{name}' for the {split} split: choose other counts, or fractions such as "
        "data.split.train=0.7 data.split.valid=0.15"
    )
