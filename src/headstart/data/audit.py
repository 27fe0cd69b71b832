"""What is wrong with a folder of pictures, found before anything is trained on it."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import median

from headstart.data.inspection import GRID, Facts
from headstart.data.listing import Listing, is_seen
from headstart.errors import UnreadableImage

# By the edge of a square of the same area: so many times that of the median picture, or one over it.
FAR = 4.0
# The long edge by the short one: what is beyond loses most of its area to the square that the backbone sees.
EXTREME_ASPECT = 3.0
# Where fewer pictures than this share are grey, a grey one is an exception.
GREY_IS_RARE = 0.1
TINY = 10
IMBALANCE = 3.0
# Of the colours that headstart.data.inspection counts: a photograph has more, a drawn sign fewer.
PHOTOGRAPH, SIGN = 256, 64
SIGN_DOMINANT = 0.93
SIGN_NAMES = re.compile(
    r"not[ _-]?(found|available)|place[ _-]?holder|(?<![a-z])no[ _-]?(image|photo|picture)"
    r"|(?<![a-z])(image|photo|picture|file)[ _-]?(missing|unavailable)"
)
FORMATS = {
    ".jpg": ("JPEG", "MPO"),
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".ppm": ("PPM",),
    ".pgm": ("PPM",),
    ".bmp": ("BMP", "DIB"),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
    ".webp": ("WEBP",),
    ".gif": ("GIF",),
}

# Every kind of finding, and whether it spoils a result: then the audit's status is 1.
SPOILS = {
    **dict.fromkeys(UnreadableImage.FAULTS, True),
    "placeholder": True,
    "conflicting labels": True,
    "copies across splits": True,
    "near duplicates across splits": True,
    "class names alike": True,
    "class missing in a split": True,
    "class extra in a split": True,
    "class without pictures": True,
    "tiny class": False,
    "imbalance": False,
    "copies within a split": False,
    "extension that lies": False,
    "far larger than the rest": False,
    "far smaller than the rest": False,
    "extreme aspect ratio": False,
    "grey among colour": False,
    "several frames": False,
    "turned by EXIF": False,
    "hidden or system file": False,
    "other file": False,
}


@dataclass(frozen=True)
class Finding:
    """One thing found: its kind (of SPOILS), the paths it is about (relative to the root), and what to say of it."""

    kind: str
    paths: tuple[str, ...]
    says: str = ""

    @property
    def spoils(self) -> bool:
        return SPOILS[self.kind]


def audit(listing: Listing, facts: dict[str, Facts]) -> list[Finding]:
    """Everything found in what is listed, by the facts of each path; in order."""
    facts = {path: facts[path] for _, _, path in listing.samples()}
    usable = {path: f for path, f in facts.items() if f.fault is None}
    placeholders = list(_placeholders(usable))
    stand_ins = {path for finding in placeholders for path in finding.paths}
    pictures = {path: f for path, f in usable.items() if path not in stand_ins}
    found = [
        *_unusable(facts),
        *placeholders,
        *_copies(listing, facts),
        *_classes(listing),
        *_odd_pictures(pictures),
        *_odd_sizes(pictures),
        *_left_out(listing),
    ]
    return in_order(found)


def in_order(findings: list[Finding]) -> list[Finding]:
    """By kind, in the order of SPOILS; those of one kind stay in the order they are in."""
    return sorted(findings, key=lambda finding: list(SPOILS).index(finding.kind))


def leaks(listing: Listing, facts: dict[str, Facts]) -> list[str]:
    """The train split's pictures of which a copy is also in valid or test."""
    usable = [(split, path) for split, _, path in listing.samples() if facts[path].fault is None]
    elsewhere = {facts[path].sha256 for split, path in usable if split != "train"}
    return [path for split, path in usable if split == "train" and facts[path].sha256 in elsewhere]


def _unusable(facts: dict[str, Facts]) -> Iterator[Finding]:
    for path, f in facts.items():
        if f.fault is not None:
            yield Finding(f.fault, (path,), f.reason or "")


def _placeholders(facts: dict[str, Facts]) -> Iterator[Finding]:
    photographs = bool(facts) and median(f.colours for f in facts.values()) > PHOTOGRAPH
    for path, f in facts.items():
        if SIGN_NAMES.search(PurePosixPath(path).stem.lower()):
            yield Finding("placeholder", (path,), "its name says so")
        elif f.colours == 1:
            yield Finding("placeholder", (path,), "it has one colour only")
        elif photographs and _looks_drawn(f):
            yield Finding("placeholder", (path,), f"{f.dominant:.0%} of it has one colour, among photographs")


def _looks_drawn(facts: Facts) -> bool:
    # A picture with fewer pixels than are looked at cannot have many colours.
    few = facts.colours <= SIGN and facts.width * facts.height >= GRID * GRID
    return few or facts.dominant >= SIGN_DOMINANT


def _copies(listing: Listing, facts: dict[str, Facts]) -> Iterator[Finding]:
    same: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for split, name, path in listing.samples():
        if facts[path].fault is None:
            same[facts[path].sha256].append((split, name, path))
    for copies in same.values():
        if len(copies) < 2:
            continue
        splits, classes = ({copy[part] for copy in copies} for part in (0, 1))
        paths = tuple(path for _, _, path in copies)
        if len(classes) > 1:
            yield Finding("conflicting labels", paths, f"the same picture as {' and '.join(sorted(classes))}")
        if len(splits) > 1:
            yield Finding("copies across splits", paths, f"the same picture in {' and '.join(sorted(splits))}")
        elif len(classes) == 1:
            yield Finding("copies within a split", paths, f"the same picture {len(paths)} times in {copies[0][0]}")


def _classes(listing: Listing) -> Iterator[Finding]:
    alike = _alike({name for classes in listing.pictures.values() for name in classes})
    for names in alike:
        yield Finding("class names alike", (), " and ".join(f"'{name}'" for name in names))
    twins = {name for names in alike for name in names}
    train = listing.pictures["train"]
    for split, classes in listing.pictures.items():
        for name in sorted(set(train) - set(classes) - twins):
            yield Finding("class missing in a split", (), f"'{name}' is in train and not in {split}")
        for name in sorted(set(classes) - set(train) - twins):
            yield Finding("class extra in a split", (), f"'{name}' is in {split} and not in train")
    for name in sorted({name for classes in listing.pictures.values() for name in classes}):
        if bare := [split for split, classes in listing.pictures.items() if classes.get(name) == []]:
            yield Finding("class without pictures", (), f"'{name}' has none in {' and '.join(bare)}")
    counts = {name: len(paths) for name, paths in train.items() if paths}
    for name, count in counts.items():
        if count < TINY:
            yield Finding("tiny class", (), f"'{name}' has {count} in train")
    if not counts:
        return
    most, least = max(counts, key=lambda c: counts[c]), min(counts, key=lambda c: counts[c])
    if counts[most] > IMBALANCE * counts[least]:
        ratio = counts[most] / counts[least]
        yield Finding(
            "imbalance", (), f"'{most}' has {ratio:.1f} × the pictures of '{least}' in train: see data.balance"
        )


def _alike(names: set[str]) -> list[list[str]]:
    """Names that differ in case, in white space, or in how Unicode writes the same letters."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        groups["".join(unicodedata.normalize("NFKC", name).casefold().split())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def _odd_pictures(facts: dict[str, Facts]) -> Iterator[Finding]:
    greys = sum(f.grey for f in facts.values())
    for path, f in facts.items():
        expected = FORMATS[PurePosixPath(path).suffix.lower()]
        if f.format not in expected:
            yield Finding("extension that lies", (path,), f"it is {f.format}")
        if f.grey and greys < GREY_IS_RARE * len(facts):
            yield Finding("grey among colour", (path,))
        if f.frames > 1:
            yield Finding("several frames", (path,), f"{f.frames}; the first one counts")
        if f.orientation != 1:
            yield Finding("turned by EXIF", (path,), f"orientation {f.orientation}; it is turned upright")


def _odd_sizes(facts: dict[str, Facts]) -> Iterator[Finding]:
    if not facts:
        return
    middle = median(_edge(f) for f in facts.values())
    for path, f in facts.items():
        size = f"{f.width} × {f.height}"
        if _edge(f) > FAR * middle:
            yield Finding("far larger than the rest", (path,), size)
        if _edge(f) < middle / FAR:
            yield Finding("far smaller than the rest", (path,), size)
        if max(f.width, f.height) > EXTREME_ASPECT * min(f.width, f.height):
            yield Finding("extreme aspect ratio", (path,), size)


def _edge(facts: Facts) -> float:
    return (facts.width * facts.height) ** 0.5


def _left_out(listing: Listing) -> Iterator[Finding]:
    for path in listing.left_out:
        seen = all(is_seen(part) for part in PurePosixPath(path).parts)
        yield Finding("other file" if seen else "hidden or system file", (path,))
