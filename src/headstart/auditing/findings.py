"""The findings of an audit: their kinds, what to do about each, and how they are found in files and labels."""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from statistics import median

from headstart.data.folders import MADE, image_extensions, listed
from headstart.data.image_info import GRID, MISSING, ImageInfo, deep_samples, odd_depths
from headstart.data.labels import CONFLICTING_LABELS, CONFLICTING_ROWS, DUPLICATE, INCOMPLETE
from headstart.data.prepare import PreparedData
from headstart.data.preprocessing import FULL_DEPTH, used_depth
from headstart.data.scan import Sample, Scan
from headstart.errors import UnreadableImage
from headstart.files import is_visible
from headstart.text import alike, counted, on_one_line, with_odd_character

UNUSED_BITS, ODD_DEPTH = "unused bits", "odd bit depth"
ABOUT, SMALLER, SAME_NAME = "file about an image", "smaller version of an image", "several files of one name"
ODD_PIXELS, HIDDEN = "unusual pixel values", "hidden by transparency"
GROUPS_ACROSS_SPLITS, NO_GROUP, MISSING_GROUPS = "groups across splits", "image without a group", "missing groups"
SIMILAR_GROUPS, MISSING_VALUE = "similar group names", "possible missing value"
# Kinds of findings that make results wrong, in the order in which they are shown, and what to do about each.
ERRORS = {
    **dict.fromkeys(UnreadableImage.FAULTS, "Repair or delete them, or set data.on_unreadable=skip."),
    MISSING: "Correct the paths in the table, or data.root, or set data.on_unreadable=skip.",
    INCOMPLETE: "Complete or delete the row, or set data.on_unreadable=skip.",
    CONFLICTING_ROWS: "Rows of one image contradict each other: keep the right one.",
    "placeholder": "These stand for an image that was not there: delete them.",
    ABOUT: "Masks and the like are used as images of their class: leave them out with data.exclude.",
    CONFLICTING_LABELS: "The same image under different classes: keep the right one.",
    "duplicates across splits": "What is tested has been trained on: delete one of each, or set data.on_leak=drop.",
    "near duplicates across splits": (
        "What is tested looks almost like what was trained on: keep each pair in one split."
    ),
    GROUPS_ACROSS_SPLITS: (
        "What is tested is of a patient, place or video that was trained on: move each group into one split."
    ),
    SIMILAR_GROUPS: "They may be one group, of which a part is tested: write them in one way.",
    "near duplicates with conflicting labels": "Almost the same image under different classes: one label may be wrong.",
    "similar class names": "They may be one class: merge their folders, or rename them.",
    "class missing from a split": "It is not scored there: add images of it.",
    "class missing from train": "It cannot be learnt: add images of it to train.",
    "empty class": "Add images to it, or delete the folder.",
}
# The same for what is worth a look.
WARNINGS = {
    MISSING_VALUE: "Does the name stand for images without a label? Then leave them out.",
    "small class": "It is hard to learn and to score: add images.",
    "class imbalance": "Consider data.balance=sampler or data.balance=loss.",
    MISSING_GROUPS: (
        "Are there several images of one patient, place or video? Keep them in one split with data.group."
    ),
    NO_GROUP: "Each of them is a group of its own.",
    DUPLICATE: "The image is used once.",
    "duplicates within a split": "They count more than once.",
    "near duplicates within a split": "They add little; of images of one scene, keep those in one split.",
    "outlier": "They are unlike the rest of their class: do they belong there?",
    UNUSED_BITS: "They are scaled by as many bits as data.depth says: auto, 8, 10, 12, 14 or 16.",
    "uniform remainder": "A copy or a download may have broken off: compare them with the originals.",
    ODD_DEPTH: "All images are read with one data.depth: convert them to the depth of the others.",
    ODD_PIXELS: "Other programs may read them differently: convert them to 8 bits, or look at some.",
    HIDDEN: "Transparent areas become white: is it a mask? Then save the images without alpha channel.",
    SMALLER: "They are the same image again, also across splits: leave them out with data.exclude.",
    SAME_NAME: "Is one of them a mask, or a copy? Leave it out with data.exclude, such as '*.png'.",
    "blurry": "Are they sharp enough to tell their classes apart?",
    "dark": "Is there enough to see?",
    "overexposed": "Is there enough to see?",
    "extension does not match format": "They are read by their content; other programs may fail.",
    "unusually large": "Compared with the other images.",
    "unusually small": "Compared with the other images: is there enough to see?",
    "extreme aspect ratio": "Most of such an image is outside the square that the network sees.",
    "grayscale outlier": "Most of the other images are in colour.",
    "multiple frames": "Only the first one is used.",
    "EXIF-rotated": "They are rotated upright; other programs may not do that.",
    "hidden or system file": "They are not used.",
    "other file": "They are not used.",
}
ADVICE = ERRORS | WARNINGS

# The factor, in edge length of a square of the same area, by which an image is larger or smaller than the median.
FAR = 4.0
# Long edge by short edge; beyond it, most of the image is outside the square that the backbone sees.
EXTREME_ASPECT = 3.0
# If fewer images than this fraction are grayscale, a grayscale one is an outlier.
GRAYSCALE_IS_RARE = 0.1
# In terms of ImageInfo. Of sharp photographs one in a thousand is below the sharpness; blurred by two pixels at a short
# edge of 224 (standard deviation), 93 % are.
BLURRY, DARK, OVEREXPOSED = 0.1, 60, 225
# The share of an image's pixels from which on what transparency hides is worth a word.
MUCH_HIDDEN = 0.1
SMALL_CLASS = 10
IMBALANCE = 3.0
# In terms of ImageInfo.colours: photographs have more, drawn signs fewer.
PHOTOGRAPH, SIGN = 256, 64
SIGN_DOMINANT = 0.93
SIGN_NAMES = re.compile(
    r"not[ _-]?(found|available)|place[ _-]?holder|(?<![a-z])no[ _-]?(image|photo|picture)"
    r"|(?<![a-z])(image|photo|picture|file)[ _-]?(missing|unavailable)"
)
# By their names, files that belong to an image whose name is the group "of".
COMPANIONS = (
    (
        ABOUT,
        re.compile(
            r"(?P<of>.+)[ _.-](masks?|segm?|segmentations?|labels?|label_?ids|depth|disparity|gt|ground[ _-]?truth"
            r"|annotations?|annotated|normals?|matte|trimap|heatmap|overlay|saliency|edges)$"
        ),
    ),
    (ABOUT, re.compile(r"(masks?|seg|label|depth|gt)[ _.-](?P<of>.+)$")),
    (SMALLER, re.compile(r"(?P<of>.+)[ _.-](thumb|thumbnail|small|preview|tn|[0-9]{2,4}x[0-9]{2,4})$")),
    (SMALLER, re.compile(r"(thumb|thumbnail|small|preview|tn)[ _.-](?P<of>.+)$")),
)
FOLDERS_ABOUT = re.compile(
    r"(masks?|segm?|segmentations?|labels?|depths?|gt|ground[ _-]?truth|annotations?|thumbs|thumbnails|previews)"
)
# How programs write that there is no value, and people that there is no label yet.
NO_VALUES = re.compile(
    r"[\W_]*(nan|null|none|nil|nat|undefined|missing|unknown|un-?label+ed|no[ _-]?label|un-?sorted|un-?classified"
    r"|misc|to[ _-]?do|tbd|n/a|value!|ref!)[\W_\d]*|#?<?(?-i:NA)>?|-+|\?+|\.+",
    re.IGNORECASE,
)
# Formats that are no mistake under the extension of another one.
VARIANTS = {("JPEG", "MPO"), ("MPO", "JPEG"), ("BMP", "DIB"), ("DIB", "BMP"), ("ICO", "CUR"), ("CUR", "ICO")}


@dataclass(frozen=True)
class Finding:
    """One thing found: its kind (a key of ADVICE), the paths concerned (relative to the root), and details."""

    kind: str
    paths: tuple[str, ...]
    says: str = ""

    @property
    def severity(self) -> str:
        """Says whether the finding makes results wrong ("error"; task=audit exits with status 1) or not ("warning")."""
        return "error" if self.kind in ERRORS else "warning"

    def remains_without(self, removed: Collection[str]) -> bool:
        """Returns whether the finding holds without the images `removed`; one path of several alone is no duplicate."""
        left = sum(path not in removed for path in self.paths)
        return left == len(self.paths) or left > 1


def find_problems(data: PreparedData) -> list[Finding]:
    """Returns everything found in a folder of images, used or not, in the order of ADVICE."""
    scan, infos = data.scan, data.infos
    usable = {path: info for path, info in infos.items() if info.fault is None}
    placeholders = list(_placeholders(usable))
    signs = {path for finding in placeholders for path in finding.paths}
    images = {path: info for path, info in usable.items() if path not in signs}
    findings = [
        *_unreadable(scan, infos),
        *(Finding(kind, (path,) if path else (), says) for kind, path, says in scan.problems),
        *_groups(scan),
        *placeholders,
        *_companions(scan),
        *_duplicates(scan, infos),
        *_classes(scan),
        *_odd_images(images),
        *_bits(usable, data.manifest.depth),
        *_pixels(usable),
        *_hard_to_see(images),
        *_odd_sizes(images),
        *_left_out(scan),
    ]
    return in_order(findings)


def in_order(findings: list[Finding]) -> list[Finding]:
    """Returns the findings by kind, in the order of ADVICE; those of a kind stay in their order."""
    return sorted(findings, key=lambda finding: list(ADVICE).index(finding.kind))


def _unreadable(scan: Scan, infos: dict[str, ImageInfo]) -> Iterator[Finding]:
    for path, reason in scan.unreadable.items():
        yield Finding("unreadable", (path,), f"the folder cannot be read: {reason}")
    for path, info in infos.items():
        if info.fault is not None:
            yield Finding(info.fault, (path,), info.reason or "")


def _groups(scan: Scan) -> Iterator[Finding]:
    if scan.groups is None:
        return
    places: dict[str, dict[str, str]] = defaultdict(dict)  # of each group, its first image in each split
    for sample in scan.samples:
        if sample.path in scan.groups:
            places[scan.groups[sample.path]].setdefault(sample.split, sample.path)
        else:
            yield Finding(NO_GROUP, (sample.path,))
    for group, firsts in places.items():
        if NO_VALUES.fullmatch(group):
            setting = _leave_out(scan, group) if scan.csv is not None else "another data.group"
            says = f"'{on_one_line(group)}' is one group: {setting} makes each of its images a group of its own"
            yield Finding(MISSING_VALUE, (), says)
        if len(firsts) > 1:
            yield Finding(GROUPS_ACROSS_SPLITS, tuple(firsts.values()), f"'{group}' is in {' and '.join(firsts)}")
    for names in alike(places):
        if len({split for name in names for split in places[name]}) > 1:
            paths = tuple(path for name in names for path in places[name].values())
            yield Finding(SIMILAR_GROUPS, paths, _unlike(names))


def _leave_out(scan: Scan, name: str) -> str:
    """The setting by which a class or a group of that name is none."""
    if scan.csv is None:
        above = "" if any(sample.path.startswith(f"{name}/") for sample in scan.samples) else "*/"
        pattern = re.sub(r"([*?[])", r"[\1]", name)
        return f"data.exclude=['{above}{pattern}/*']"
    bare = re.fullmatch(r"[\w.-]+", name) is not None
    return f"data.missing=[{name}]" if bare else f"data.missing=['{name}']"


def _unlike(names: list[str]) -> str:
    """The names, with the characters by which they differ where these are not seen."""
    return listed(with_odd_character(name, [other for other in names if other != name]) for name in names)


def _placeholders(infos: dict[str, ImageInfo]) -> Iterator[Finding]:
    photographs = bool(infos) and median(info.colours for info in infos.values()) > PHOTOGRAPH
    for path, info in infos.items():
        if SIGN_NAMES.search(PurePosixPath(path).stem.lower()):
            yield Finding("placeholder", (path,), "judging by its name")
        elif info.colours == 1:
            yield Finding("placeholder", (path,), "it has a single colour")
        elif photographs and _looks_drawn(info):
            yield Finding("placeholder", (path,), f"{info.dominant:.0%} of it has one colour, among photographs")


def _looks_drawn(info: ImageInfo) -> bool:
    # An image with fewer pixels than are sampled cannot have many colours.
    few = info.colours <= SIGN and info.width * info.height >= GRID * GRID
    return few or info.dominant >= SIGN_DOMINANT


def _companions(scan: Scan) -> Iterator[Finding]:
    """Files that belong to another image of the same folder by their names."""
    names: dict[str, list[str]] = defaultdict(list)  # by path without extension
    for sample in scan.samples:
        names[str(PurePosixPath(sample.path).with_suffix("")).lower()].append(sample.path)
    companions: dict[tuple[str, str], list[str]] = defaultdict(list)  # by kind and glob pattern
    for name, paths in names.items():
        folder, _, stem = name.rpartition("/")
        for kind, regex in COMPANIONS:
            match = regex.match(stem)
            if match and f"{folder}/{match['of']}".removeprefix("/") in names:
                companions[kind, _pattern(match)] += paths
                break
        else:
            if len(paths) > 1:
                yield Finding(SAME_NAME, tuple(paths))
    for path, folder in _in_folders_about(scan.samples):
        companions[ABOUT, f"*/{folder}/*"].append(path)
    for (kind, pattern), paths in companions.items():
        setting = f"data.exclude=['{pattern}']"
        yield Finding(kind, tuple(paths), f'beside the images themselves; to leave them out: "{setting}"')


def _in_folders_about(samples: Sequence[Sample]) -> Iterator[tuple[str, str]]:
    """The files in folders such as x/masks beside x/images, where x is a class, and the name of the folder."""
    stems: dict[tuple[str, str], list[str]] = defaultdict(list)
    for sample in samples:
        stems[sample.class_name, PurePosixPath(sample.path).stem].append(sample.path)
    for sample in samples:
        above = PurePosixPath(sample.path).parent.parts
        inner = above[len(above) - above[::-1].index(sample.class_name) :] if sample.class_name in above else ()
        same = stems[sample.class_name, PurePosixPath(sample.path).stem]
        for folder in filter(lambda name: FOLDERS_ABOUT.fullmatch(name.lower()), inner):
            if any(f"/{folder}/" not in path for path in same):
                yield sample.path, folder


def _pattern(match: re.Match[str]) -> str:
    """The glob pattern of files whose names differ from that of an image in the same way."""
    before, after = match.string[: match.start("of")], match.string[match.end("of") :]
    return f"{before}*" if before else f"*{re.sub('[0-9]+', '[0-9]*', after)}.*"


def _duplicates(scan: Scan, infos: dict[str, ImageInfo]) -> Iterator[Finding]:
    same: dict[str, list[Sample]] = defaultdict(list)
    for sample in scan.samples:
        if infos[sample.path].fault is None:
            same[infos[sample.path].sha256].append(sample)
    for copies in same.values():
        if len(copies) < 2:
            continue
        splits, classes = {copy.split for copy in copies}, {copy.class_name for copy in copies}
        paths = tuple(copy.path for copy in copies)
        if len(classes) > 1:
            yield Finding("conflicting labels", paths, f"the same image in classes {listed(sorted(classes))}")
        if len(splits) > 1:
            yield Finding("duplicates across splits", paths, f"the same image in {' and '.join(sorted(splits))}")
        elif len(classes) == 1:
            yield Finding("duplicates within a split", paths, f"the same image {len(paths)} times in {copies[0].split}")


def _classes(scan: Scan) -> Iterator[Finding]:
    counts = Counter((sample.split, sample.class_name) for sample in scan.samples)
    every = {name for classes in scan.classes.values() for name in classes}
    similar = alike(every)
    for names in similar:
        yield Finding("similar class names", (), _unlike(names))
    for name in sorted(filter(NO_VALUES.fullmatch, every)):
        number = sum(count for (_, of), count in counts.items() if of == name)
        also = " data.on_unreadable=skip" if scan.csv is not None else ""
        says = f"'{on_one_line(name)}' has {counted(number, 'image')}: {_leave_out(scan, name)}{also} leaves them out"
        yield Finding(MISSING_VALUE, (), says)
    twins = {name for names in similar for name in names}
    train = scan.classes["train"]
    for split, classes in scan.classes.items():
        for name in sorted(set(train) - set(classes) - twins):
            yield Finding("class missing from a split", (), f"'{name}' is in train but not in {split}")
        for name in sorted(set(classes) - set(train) - twins):
            yield Finding("class missing from train", (), f"'{name}' is in {split} but not in train")
    for name in sorted(every):
        if empty := [split for split in scan.classes if name in scan.classes[split] and not counts[split, name]]:
            yield Finding("empty class", (), f"'{name}' has no images in {', '.join(empty)}")
    yield from _class_sizes({name: counts["train", name] for name in train if counts["train", name]})


def _class_sizes(counts: dict[str, int]) -> Iterator[Finding]:
    for name, count in counts.items():
        if count < SMALL_CLASS:
            yield Finding("small class", (), f"'{name}' has {count} image{'s' if count > 1 else ''} in train")
    if not counts:
        return
    most, least = max(counts, key=lambda c: counts[c]), min(counts, key=lambda c: counts[c])
    if counts[most] > IMBALANCE * counts[least]:
        ratio = counts[most] / counts[least]
        yield Finding(
            "class imbalance", (), f"'{most}' has {ratio:.1f} × the images of '{least}' in train: see data.balance"
        )


def _odd_images(infos: dict[str, ImageInfo]) -> Iterator[Finding]:
    grayscale = sum(info.grayscale for info in infos.values())
    for path, info in infos.items():
        # Without an image extension, the content says what it is.
        expected = image_extensions().get(PurePosixPath(path).suffix.lower(), info.format)
        if info.format != expected and (expected, info.format) not in VARIANTS:
            yield Finding("extension does not match format", (path,), f"it is {info.format}")
        if info.grayscale and grayscale < GRAYSCALE_IS_RARE * len(infos):
            yield Finding("grayscale outlier", (path,))
        if info.frames > 1:
            yield Finding("multiple frames", (path,), f"{info.frames} frames; only the first one is used")
        if info.orientation != 1:
            yield Finding("EXIF-rotated", (path,), f"orientation {info.orientation}; it is rotated upright")


def _bits(infos: dict[str, ImageInfo], depth: int) -> Iterator[Finding]:
    deep = list(deep_samples(infos))
    used = used_depth(deep_samples(infos).values())
    if used is None:
        return
    yield from (Finding(ODD_DEPTH, (path,), says) for path, says in odd_depths(infos, depth).items())
    if used == depth == FULL_DEPTH:
        return
    kept = f"read as {depth}-bit" if used <= depth else f"read as {depth}-bit, and brighter samples are clipped"
    what = f"{counted(len(deep), 'image')} with 16 bits per sample, of which {used} are used"
    yield Finding(UNUSED_BITS, (), f"{what} ({deep[0]}{', …' if len(deep) > 1 else ''}); {kept}")


def _pixels(infos: dict[str, ImageInfo]) -> Iterator[Finding]:
    for path, info in infos.items():
        if info.damage:
            yield Finding("uniform remainder", (path,), info.damage)
        if info.reading:
            yield Finding(ODD_PIXELS, (path,), info.reading)
        if info.hidden >= MUCH_HIDDEN:
            yield Finding(HIDDEN, (path,), f"{info.hidden:.0%} of it, where there is more than a single colour")


def _hard_to_see(infos: dict[str, ImageInfo]) -> Iterator[Finding]:
    for path, info in infos.items():
        if info.brightest < DARK:
            yield Finding("dark", (path,), f"95 % of it are darker than {info.brightest} of 255")
        elif info.darkest > OVEREXPOSED:
            yield Finding("overexposed", (path,), f"95 % of it are brighter than {info.darkest} of 255")
        elif info.sharpness < BLURRY:
            yield Finding("blurry", (path,), f"sharpness {info.sharpness:.2f}")


def _odd_sizes(infos: dict[str, ImageInfo]) -> Iterator[Finding]:
    if not infos:
        return
    middle = median(_edge(info) for info in infos.values())
    for path, info in infos.items():
        size = f"{info.width} × {info.height}"
        if _edge(info) > FAR * middle:
            yield Finding("unusually large", (path,), size)
        if _edge(info) < middle / FAR:
            yield Finding("unusually small", (path,), size)
        if max(info.width, info.height) > EXTREME_ASPECT * min(info.width, info.height):
            yield Finding("extreme aspect ratio", (path,), size)


def _edge(info: ImageInfo) -> float:
    return (info.width * info.height) ** 0.5


def _left_out(scan: Scan) -> Iterator[Finding]:
    for path, reason in scan.left_out.items():
        if reason == MADE:
            # Such as logs/ with the run itself: nothing is wrong with that.
            continue
        visible = all(is_visible(part) for part in PurePosixPath(path).parts)
        yield Finding("other file" if visible else "hidden or system file", (path,), reason)
