"""What stands on a command line, whatever the form in which it was typed."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os.path import exists

# Hydra's own flags, and how many values follow each.
FLAGS = {
    **dict.fromkeys(("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"), 0),
    **dict.fromkeys(("--shell-completion", "-sc", "--info", "-i"), 0),
    **dict.fromkeys(("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"), 1),
    **dict.fromkeys(("--config-dir", "-cd", "--experimental-rerun"), 1),
}
SHOWN = ("job", "hydra", "all")  # values of --cfg
GLUED = re.compile(r"-([a-z])([\d.].*)", re.IGNORECASE)


@dataclass(frozen=True)
class Word:
    """`typed`, one or more arguments; `name` and `value` where it looks like a setting, `name` None where it is bare.

    `is_right` where it is a flag of Hydra, or a deletion (~key).
    """

    typed: tuple[str, ...]
    name: str | None = None
    value: str | None = None
    is_right: bool = False


def split(arguments: list[str], is_name: Callable[[str], bool]) -> Iterator[Word]:
    """The words of a command line; `is_name` tells names of settings from other bare words."""
    rest = list(arguments)
    while rest:
        taken, word = _first(rest, is_name)
        del rest[:taken]
        yield word


def _first(rest: list[str], is_name: Callable[[str], bool]) -> tuple[int, Word]:
    """The first word, and how many arguments it consists of."""
    first = rest[0]
    if (values := _values_of_flag(rest)) is not None:
        return 1 + values, Word(tuple(rest[: 1 + values]), is_right=True)
    if first.startswith("-") and len(first) > 1:
        return _option(rest)
    if "=" not in first and not first.startswith("~"):
        return _bare(rest, is_name)
    if first.startswith(("~", "=")):
        return 1, Word((first,), is_right=first.startswith("~"))
    return _assignment(rest)


def _values_of_flag(rest: list[str]) -> int | None:
    """How many arguments follow Hydra's flag at the start, which may be shortened; None: there is no such flag."""
    name, has_value, _ = rest[0].partition("=")
    found = [flag for flag in FLAGS if flag == name] or [f for f in FLAGS if len(name) > 3 and f.startswith(name)]
    if len(found) != 1 or (name in ("-c", "--cfg") and rest[1:2] and rest[1] not in SHOWN):
        return None
    if name in ("-i", "--info"):
        return int(rest[1:2] != [] and "=" not in rest[1] and not rest[1].startswith("-"))
    return 0 if has_value else min(FLAGS[found[0]], len(rest) - 1)


def _option(rest: list[str]) -> tuple[int, Word]:
    """ "--lr 1e-3", "--lr=1e-3", "-e 3", "-e3", "--pretrained"."""
    if glued := GLUED.fullmatch(rest[0]):
        return 1, Word((rest[0],), glued[1], glued[2])
    name, equals, value = rest[0].lstrip("-").partition("=")
    if equals:
        return 1, Word((rest[0],), name, value)
    if rest[1:] and "=" not in rest[1] and not re.match(r"-\D", rest[1]):
        return 2, Word((rest[0], rest[1]), name, rest[1])
    return 1, Word((rest[0],), name)


def _bare(rest: list[str], is_name: Callable[[str], bool]) -> tuple[int, Word]:
    """ "photos", "data.root photos", "data.root = photos", "data.root =photos", "data.root: photos"."""
    name, colon, value = rest[0].partition(":")
    if not is_name(name) or (colon and exists(rest[0])):
        return 1, Word((rest[0],))
    if value:
        return 1, Word((rest[0],), name, value)
    if rest[1:] and rest[1] == "=":
        return min(3, len(rest)), Word(tuple(rest[:3]), name, rest[2] if rest[2:] else None)
    if rest[1:] and rest[1].startswith("="):
        return 2, Word((rest[0], rest[1]), name, rest[1][1:])
    if rest[1:] and "=" not in rest[1] and not rest[1].startswith("-"):
        return 2, Word((rest[0], rest[1]), name, rest[1])
    return 1, Word((rest[0],), None if exists(rest[0]) else name)


def _assignment(rest: list[str]) -> tuple[int, Word]:
    """ "data.root=photos", "data.root= photos", and a path that the shell split at its spaces."""
    name, _, value = rest[0].partition("=")
    if not value and rest[1:] and "=" not in rest[1] and not rest[1].startswith("-"):
        return 2, Word((rest[0], rest[1]), name, rest[1])
    for count in range(len(rest), 1, -1):
        joined = " ".join([value, *rest[1:count]])
        if not exists(value) and "=" not in "".join(rest[1:count]) and exists(joined):
            return count, Word(tuple(rest[:count]), name, joined)
    return 1, Word((rest[0],), name, value)
