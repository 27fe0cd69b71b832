"""Random splits, folds and groups, as pure functions of the seed."""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from headstart.config.data import SplitSettings
from headstart.data.preprocessing import Array
from headstart.errors import HeadstartError


def derive_seed(*parts: int | str) -> int:
    """Returns a 32-bit seed that depends on all `parts` and on nothing else.

    32 bits, because that is all PyTorch's Mersenne Twister takes of a seed on the CPU.
    """
    text = "\x00".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=4).digest(), "little")


# How images are split: by counts in the order of their names, or by seeded fractions, which can keep groups whole.

SPLITS = ("train", "valid", "test")
Images = dict[str, list[str]]  # the images of each class, as sorted POSIX paths relative to the root


def split_images(
    images: dict[str, Images],
    rule: SplitSettings,
    seed: int,
    groups: Mapping[str, str] | None,
    copies: Mapping[str, str] | None = None,
) -> dict[str, Images]:
    """Returns the images of each class by split, after those under "" were split by `rule`.

    Where there are splits, but no valid one, it is a share of train. Images whose paths have the same of `groups` stay
    in one split, and so do those that have the same of `copies`.

    Raises:
        HeadstartError: the two values of the rule contradict each other, or are counts where there are groups.
    """
    copies = copies or {}
    if "" in images:
        return _split_by_rule(images[""], rule, seed, groups, copies)
    if "valid" in images:
        return images
    if groups is not None:
        drawn = _split_groups(images["train"], groups, copies, rule, 1 - rule.valid, seed)
    else:
        parts = {c: split_off_valid(paths, rule.valid, seed=seed, class_name=c) for c, paths in images["train"].items()}
        drawn = {"train": {c: parts[c][0] for c in parts}, "valid": {c: parts[c][1] for c in parts}}
        drawn = _with_copies_together(drawn, copies)
    return drawn | {split: of_split for split, of_split in images.items() if split not in drawn}


def _split_by_rule(
    paths: Images, rule: SplitSettings, seed: int, groups: Mapping[str, str] | None, copies: Mapping[str, str]
) -> dict[str, Images]:
    if rule.conflict is not None:
        raise HeadstartError(rule.conflict)
    if groups is not None:
        return _split_groups(paths, groups, copies, rule, rule.train, seed)
    parts = {c: split_class(paths[c], rule.train, rule.valid, seed=seed, class_name=c) for c in paths}
    images = {split: {c: parts[c][split] for c in paths} for split in SPLITS}
    # Fractions have a test split even if all classes are too small for it.
    has_test = rule.train + rule.valid < 1 - 1e-9 if isinstance(rule.train, float) else any(images["test"].values())
    images = images if has_test else {split: images[split] for split in ("train", "valid")}
    return _with_copies_together(images, copies)


def split_class(names: list[str], train: float, valid: float, *, seed: int, class_name: str) -> dict[str, list[str]]:
    """Returns the names in each split, sorted.

    Counts (int): the first `train` names, the next `valid`, the rest to test. Fractions (float): a random draw that
    depends only on `seed`, `class_name` and the names; every split with a share gets at least one of three names.
    """
    names = sorted(names)
    if isinstance(train, int):
        first, second = train, train + int(valid)
    else:
        random.Random(derive_seed("split", seed, class_name)).shuffle(names)
        first, second = _bounds(len(names), train, valid)
    parts = (names[:first], names[first:second], names[second:])
    return {split: sorted(part) for split, part in zip(SPLITS, parts, strict=True)}


def split_off_valid(names: list[str], share: float, *, seed: int, class_name: str) -> tuple[list[str], list[str]]:
    """Returns the names that stay in train, and `share` of them, a count or a fraction, for validation; both sorted.

    A random draw that depends only on `seed`, `class_name` and the names. A fraction leaves at least one name, and
    takes at least one of two.
    """
    names = sorted(names)
    random.Random(derive_seed("valid", seed, class_name)).shuffle(names)
    count = share if isinstance(share, int) else min(max(1, round(len(names) * share)), len(names) - 1)
    return sorted(names[max(0, count) :]), sorted(names[: max(0, count)])


def _with_copies_together(drawn: dict[str, Images], copies: Mapping[str, str]) -> dict[str, Images]:
    """The same draw, changed so that all copies of an image are in one split; without copies, it stays as it is."""
    if not copies:
        return drawn
    placed: dict[str, str] = {}  # the splits of sets of copies
    split_of: dict[str, str] = {}
    for name in drawn["train"]:
        origins = {path: split for split, of_split in drawn.items() for path in of_split[name]}
        placed |= (own := _place_copies(origins, copies, placed))
        split_of |= {path: own.get(copies.get(path, path), split) for path, split in origins.items()}
    every = {name: sorted(path for of_split in drawn.values() for path in of_split[name]) for name in drawn["train"]}
    return {
        split: {name: [path for path in paths if split_of[path] == split] for name, paths in every.items()}
        for split in drawn
    }


def _place_copies(origins: Mapping[str, str], copies: Mapping[str, str], placed: Mapping[str, str]) -> dict[str, str]:
    """The split of each set of copies in a class of which `origins` is a draw; an image without copies is a set, too.

    A set stays in the split that its first image was drawn for or, if that has no room for all of it, goes into the
    next one that has; sets that are also in another class have been `placed`. So every split keeps its number of images
    as nearly as large sets allow, and at least one. Where there are fewer sets than splits, nothing is moved.
    """
    sets: dict[str, list[str]] = {}
    for path in sorted(origins):
        sets.setdefault(copies.get(path, path), []).append(path)
    room = Counter(origins.values())
    if len(sets) < len(room):
        return {}
    found = {key: placed[key] for key in sets.keys() & placed.keys()}
    for key, split in found.items():
        room[split] -= len(sets[key])
    empty = room.keys() - set(found.values())
    # Large ones first: single images fill up what these leave.
    waiting = sorted(sets.keys() - found.keys(), key=lambda key: (-len(sets[key]), sets[key][0]))
    for place, key in enumerate(waiting):
        wanted = [origins[sets[key][0]], *room]
        allowed = [split for split in wanted if len(waiting) - place > len(empty) or split in empty]
        with_room = [split for split in allowed if room[split] >= len(sets[key])]
        found[key] = split = with_room[0] if with_room else max(allowed, key=lambda split: room[split])
        room[split] -= len(sets[key])
        empty -= {split}
    return found


def _split_groups(
    images: Images,
    groups: Mapping[str, str],
    copies: Mapping[str, str],
    rule: SplitSettings,
    train: float,
    seed: int,
) -> dict[str, Images]:
    """The images of each class by split, the share `train` to train. An image without a group is one of its own."""
    if isinstance(rule.train, int) or isinstance(rule.valid, int):
        raise HeadstartError(
            f"data.split.train={rule.train} and data.split.valid={rule.valid} cannot be counts with data.group, which "
            "keeps groups whole: set fractions, such as data.split.train=0.7 data.split.valid=0.15"
        )
    shares = {"train": train, "valid": rule.valid, "test": 1 - train - rule.valid}
    shares = {split: share for split, share in shares.items() if share > 1e-9}
    labelled = [(path, class_name) for class_name, paths in sorted(images.items()) for path in paths]
    if not labelled:
        return dict.fromkeys(shares, images)
    paths, names = zip(*labelled, strict=True)
    labels = np.unique(names, return_inverse=True)[1]
    units = units_of(paths, groups, [copies.get(path, path) for path in paths])
    parts = share_out(labels, units, list(shares.values()), seed)
    drawn: dict[str, Images] = {split: {name: [] for name in images} for split in shares}
    for (path, name), part in zip(labelled, parts.tolist(), strict=True):
        drawn[[*shares][part]][name].append(path)
    return drawn


def _bounds(count: int, train: float, valid: float) -> tuple[int, int]:
    has_test = train + valid < 1 - 1e-9
    n_test = min(max(1, round(count * (1 - train - valid))), max(1, count - 2)) if has_test else 0
    n_valid = min(max(1, round(count * valid)), max(1, count - 1 - n_test))
    n_train = max(1, count - n_valid - n_test)
    return n_train, n_train + n_valid


# Folds for cross-validation, and groups of images that stay together.

FOLDS = 5


def stratified_folds(labels: Array, seed: int, count: int = FOLDS) -> Array:
    """Returns the fold (N) of each image, of which there are `count`, as even within each class as can be."""
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty(len(labels), int)
    folds[by_class] = np.arange(len(labels)) % count
    return folds


def unit_folds(labels: Array, units: Array | None, seed: int, count: int = FOLDS) -> Array:
    """Returns the fold (N) of each image, even within each class; images of the same of `units` (N) share one."""
    if units is None or len(np.unique(units)) == len(units):
        return stratified_folds(labels, seed, count)
    return share_out(labels, np.unique(units, return_inverse=True)[1], [1 / count] * count, seed)


def groups_by_path(pattern: str, paths: Iterable[str]) -> dict[str, str]:
    """Returns the group of each path in which `pattern` finds one: the first group of the expression, or all of it.

    Raises:
        HeadstartError: it finds none.
    """
    paths = list(paths)
    matches = {path: match for path in paths if (match := re.search(pattern, path)) is not None}
    groups = {path: match.group(1 if match.re.groups else 0) for path, match in matches.items()}
    groups = {path: group for path, group in groups.items() if group}
    if paths and not groups:
        raise HeadstartError(f"data.group={pattern} is found in no path, such as {paths[0]}")
    return groups


def units_of(paths: Sequence[str], groups: Mapping[str, str], contents: Sequence[str]) -> Array:
    """Returns a number from 0 (N) for each image, the same for images of one group and for equal contents."""
    parents: dict[str, str] = {}

    def top(node: str) -> str:
        while (parent := parents.setdefault(node, node)) != node:
            parents[node] = node = parents[parent]
        return node

    for path, content in zip(paths, contents, strict=True):
        parents[top(f"content {content}")] = top(f"group {groups[path]}" if path in groups else f"path {path}")
    tops = [top(f"content {content}") for content in contents]
    _, units = np.unique(tops, return_inverse=True)
    return units


def joined(units: Array, first: Array, second: Array) -> Array:
    """Returns the units (N), numbers from 0, after those of each image of `first` and the same one of `second` (pairs)
    became one.
    """
    if not len(first):
        return units
    # Imported here because it takes a quarter of a second.
    from scipy.sparse import coo_array  # type: ignore[import-untyped]
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    count = int(units.max()) + 1
    edges = coo_array((np.ones(len(first)), (units[first], units[second])), (count, count))
    merged: Array = connected_components(edges, directed=False)[1][units]
    return merged


def share_out(labels: Array, units: Array, shares: Sequence[float], seed: int) -> Array:
    """Returns the part (N) of each image, one of as many as there are `shares`; images of one of `units` (N) share it.

    Every part gets its share of every class as nearly as large units allow, and at least one unit of each class that
    has one for each part.
    """
    members = np.split(np.argsort(units, kind="stable"), np.cumsum(np.bincount(units))[:-1])
    totals = np.bincount(labels)
    filled = np.zeros((len(shares), len(totals)))
    waiting = np.zeros(len(totals), int)  # units of each class that have no part yet
    for unit in members:
        waiting[np.unique(labels[unit])] += 1
    parts = np.empty(len(labels), int)
    order = np.random.default_rng(derive_seed("groups", seed)).permutation(len(members))
    # Large ones first: what they leave uneven, small ones fill up.
    for unit in sorted((members[place] for place in order), key=len, reverse=True):
        classes, counts = np.unique(labels[unit], return_counts=True)
        size, before = counts / totals[classes], filled[:, classes] / totals[classes]
        # How much it adds to the sum of squared shares, which is least where all parts have their shares.
        costs = ((2 * before + size) * size).sum(1) / np.array(shares)
        empty = before == 0
        needed = (empty & (waiting[classes] <= empty.sum(0))).sum(1)
        parts[unit] = part = np.lexsort((costs, -needed))[0]
        filled[part, classes] += counts
        waiting[classes] -= 1
    return parts


def grouped_folds(
    labels: Array,
    paths: Sequence[str],
    contents: Sequence[str],
    groups: Mapping[str, str] | None,
    seed: int,
    count: int = FOLDS,
) -> Array:
    """Returns the fold (N) of each image, the same for copies and, if there are `groups`, for all images of one."""
    if groups is None:
        _, first, which = np.unique(np.array(contents), return_index=True, return_inverse=True)
        folds: Array = stratified_folds(labels[first], seed, count)[which]
        return folds
    return share_out(labels, units_of(paths, groups, contents), [1 / count] * count, seed)
