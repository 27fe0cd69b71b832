"""Groups of images that stay in one split, and how groups are shared out."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from headstart.data.folds import FOLDS, Array, folds_of_distinct
from headstart.errors import HeadstartError
from headstart.seeds import derive_seed


def groups_by_path(pattern: str, paths: Iterable[str]) -> dict[str, str]:
    """The group of each path in which the regular expression `pattern` finds one: its first group, or all of it.

    Raises:
        HeadstartError: it finds none.
    """
    paths = list(paths)
    found = {path: match for path in paths if (match := re.search(pattern, path)) is not None}
    groups = {path: match.group(1 if match.re.groups else 0) for path, match in found.items()}
    groups = {path: group for path, group in groups.items() if group}
    if paths and not groups:
        raise HeadstartError(f"data.group={pattern} is found in no path, such as {paths[0]}")
    return groups


def units_of(paths: Sequence[str], groups: Mapping[str, str], contents: Sequence[str]) -> Array:
    """Which images (N) must stay together: those of one group, and those with the same content, as numbers from 0."""
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


def share_out(labels: Array, units: Array, shares: Sequence[float], seed: int) -> Array:
    """The part (N) of each image, of as many parts as there are `shares`. Images of one of `units` (N) stay together.

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
    """The fold (N) of each image, the same for copies and, if there are `groups`, for all images of one."""
    if groups is None:
        return folds_of_distinct(labels, np.array(contents), seed, count)
    return share_out(labels, units_of(paths, groups, contents), [1 / count] * count, seed)
