"""Programs and their arguments: what each argument is, and how it is written so that Hydra reads what was meant."""

import functools
import os
import re
import secrets
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from os.path import exists
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from headstart.config import CONF, GROUPS, options_of
from headstart.config.checks import VAGUE, meant_keys
from headstart.config.overrides import key_of, literal, parsed_override, trial_name, values_of_trial, written_as
from headstart.config.predict import EmbedSettings, PredictSettings
from headstart.config.train import TrainSettings, keys_with, known_keys, plain_text
from headstart.errors import HeadstartError
from headstart.machine import place_in_job
from headstart.metrics import metric_of

# What a program takes.

# Keys of train.py besides its settings.
MORE = ("hydra.run.dir", "callbacks.early_stopping.patience")


@dataclass(frozen=True)
class Program:
    """A program: the name of its file in conf/, the class of its settings, and what it does with a composed config.

    `conf` is the folder of its configuration, None where that is not known.
    """

    name: str
    schema: type
    task: Callable[[DictConfig], Any]
    conf: Path | None = CONF

    @property
    def script(self) -> str:
        """The script that starts it."""
        return f"{self.name}.py"

    @property
    def trains(self) -> bool:
        """Whether it trains: a checkpoint on its command line stands for the settings of the run that it came from."""
        return self.name == "train"

    @property
    def known(self) -> list[str]:
        """The keys of its settings."""
        return known_keys(self.schema)

    def has_group(self, name: str) -> bool:
        """Returns whether the key is one of the groups of conf/."""
        return self.trains and name in GROUPS

    def options(self, group: str) -> list[str]:
        """Returns the options of a group of conf/; none if they are not known."""
        return options_of(group, self.conf) if self.conf is not None else []

    def meant(self, name: str) -> list[str]:
        """Returns the keys that people may mean by `name`: one, if it is certain."""
        return meant_keys(name, [*self.known, *(MORE if self.trains else ())])

    def is_name(self, word: str) -> bool:
        """Whether a bare word looks like the name of a setting."""
        if word in self.known or self.has_group(word):
            return True
        group, dot, _ = word.partition(".")
        # Otherwise best.ckpt would be the key that people mean by ckpt.
        is_name = not dot or any(key.startswith(f"{group}.") for key in self.known)
        return is_name and self.meant(word) != [] and word.lower() not in VAGUE and not os.path.exists(word)


# What stands on a command line, whatever the form in which it was typed.

# Hydra's own flags, with what they are called in short, and those that are followed by a value.
FLAGS = {
    **{"--help": "-h", "--hydra-help": "", "--version": "", "--resolve": "", "--run": "-r", "--multirun": "-m"},
    **{"--shell-completion": "-sc", "--info": "-i", "--cfg": "-c", "--package": "-p", "--config-path": "-cp"},
    **{"--config-name": "-cn", "--config-dir": "-cd", "--experimental-rerun": ""},
}
WITH_VALUE = {"--cfg", "--package", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"}
SHOWN = ("job", "hydra", "all")  # values of --cfg
GLUED = re.compile(r"-([a-z])([\d.].*)", re.IGNORECASE)


@dataclass(frozen=True)
class Token:
    """A part of a command line, `typed` as one or more arguments.

    It has a `name` and a `value` where it looks like a setting, or is a flag of Hydra, in which case `name` is its long
    form; `name` is None where it is a bare word. `is_right` where it is such a flag, or a deletion (~key).
    """

    typed: tuple[str, ...]
    name: str | None = None
    value: str | None = None
    is_right: bool = False


def split(arguments: list[str], is_name: Callable[[str], bool]) -> Iterator[Token]:
    """Yields the tokens of a command line; `is_name` tells names of settings from other bare words."""
    rest = list(arguments)
    while rest:
        token = _first(rest, is_name)
        del rest[: len(token.typed)]
        yield token


def flags(arguments: list[str]) -> dict[str, str]:
    """Returns Hydra's flags on a command line by their long names, with their values; "" for none."""
    tokens = split(arguments, lambda word: False)
    return {str(token.name): str(token.value) for token in tokens if token.is_right and token.name}


def _first(rest: list[str], is_name: Callable[[str], bool]) -> Token:
    first = rest[0]
    if (flag := _flag(rest)) is not None:
        return flag
    if first.startswith("-") and len(first) > 1:
        return _option(rest)
    if first.startswith(("~", "=")):
        return Token((first,), is_right=first.startswith("~"))
    return _assignment(rest) if "=" in first else _bare(rest, is_name)


def _flag(rest: list[str]) -> Token | None:
    """Reads Hydra's flag at the start, which may be shortened, with its value; None: there is no such flag."""
    typed, equals, value = rest[0].partition("=")
    exact = [name for name, short in FLAGS.items() if typed in (name, short)]
    names = exact or [name for name in FLAGS if len(typed) > 3 and name.startswith(typed)]
    if len(names) != 1 or (names == ["--cfg"] and not equals and rest[1:2] and rest[1] not in SHOWN):
        return None
    takes_next = _has_value(rest) if names == ["--info"] else names[0] in WITH_VALUE and len(rest) > 1
    if equals or not takes_next:
        return Token((rest[0],), names[0], value, is_right=True)
    return Token(tuple(rest[:2]), names[0], rest[1], is_right=True)


def _has_value(rest: list[str], option: str = "-") -> bool:
    """Whether the second argument can be the value of the first: it is no setting, and no `option`, an expression."""
    return len(rest) > 1 and "=" not in rest[1] and not re.match(option, rest[1])


def _option(rest: list[str]) -> Token:
    """Reads "--lr 1e-3", "--lr=1e-3", "-e 3", "-e3", "--pretrained"."""
    if glued := GLUED.fullmatch(rest[0]):
        return Token((rest[0],), glued[1], glued[2])
    name, equals, value = rest[0].lstrip("-").partition("=")
    if equals:
        return Token((rest[0],), name, value)
    return Token(tuple(rest[:2]), name, rest[1]) if _has_value(rest, r"-\D") else Token((rest[0],), name)


def _bare(rest: list[str], is_name: Callable[[str], bool]) -> Token:
    """Reads "photos", "data.root photos", "data.root = photos", "data.root =photos", "data.root: photos"."""
    name, colon, value = rest[0].partition(":")
    if not is_name(name) or (colon and exists(rest[0])):
        return Token((rest[0],))
    if value:
        return Token((rest[0],), name, value)
    if rest[1:2] == ["="]:
        return Token(tuple(rest[:3]), name, rest[2] if rest[2:] else None)
    if rest[1:] and rest[1].startswith("="):
        return Token((rest[0], rest[1]), name, rest[1][1:])
    if _has_value(rest):
        return Token((rest[0], rest[1]), name, rest[1])
    return Token((rest[0],), None if exists(rest[0]) else name)


def _assignment(rest: list[str]) -> Token:
    """Reads "data.root=photos", "data.root= photos", and a path that the shell split at its spaces."""
    name, _, value = rest[0].partition("=")
    if not value and _has_value(rest):
        return Token((rest[0], rest[1]), name, rest[1])
    for count in range(len(rest), 1, -1):
        joined = " ".join([value, *rest[1:count]])
        if not exists(value) and "=" not in "".join(rest[1:count]) and exists(joined):
            return Token(tuple(rest[:count]), name, joined)
    return Token((rest[0],), name, value)


# From what a user types to what Hydra accepts.

# Groups whose entries accept arguments of a Lightning class that are not listed in conf/.
OPEN_GROUPS = re.compile(r"(trainer|callbacks|logger)\.")
SCHEMAS = TrainSettings, PredictSettings, EmbedSettings
# Keys whose values are paths, or texts, which may have any characters.
PATHS = keys_with("path", *SCHEMAS) | {"hydra.run.dir", "hydra.sweep.dir"}
TEXTS = keys_with("text", *SCHEMAS)
INTERPOLATION = re.compile(r"\$\{[^{}]*\}")
FUNCTION = re.compile(r"(choice|range|glob|shuffle|sort|tag|interval)\(.*\)", re.DOTALL)


def with_plain_paths(arguments: Iterable[str], *, is_sweep: bool) -> list[str]:
    """Returns `arguments` with paths quoted where Hydra would read something else; in a sweep, lists stay lists."""
    return [_plain(argument, is_sweep) for argument in arguments]


def for_hydra(arguments: Iterable[str]) -> list[str]:
    """Returns `arguments` with `trainer.x=1` as `++trainer.x=1`.

    Hydra rejects keys that conf/ does not list; headstart.config.lightning checks them.
    """
    return [f"++{argument}" if OPEN_GROUPS.match(argument) else argument for argument in arguments]


def _plain(argument: str, is_sweep: bool) -> str:
    key, equals, value = argument.partition("=")
    if key_of(argument) in TEXTS and not _is_for_hydra(value, is_sweep):
        value = literal(value)
    elif key_of(argument) in PATHS:
        is_hydras = key_of(argument).startswith("hydra.")
        if is_hydras and "${" in value and not INTERPOLATION.search(value):
            raise HeadstartError(f"{argument} is invalid: Hydra cannot write to a folder with ${{ in its name")
        # Trials differ in their data, not in where the sweep is.
        value = _path(expand_home(value), is_sweep and not is_hydras)
    return f"{key}{equals}{value}"


def expand_home(value: str) -> str:
    """Returns the path with the ~ of a home folder replaced; one that is merely called so becomes an absolute one."""
    expanded = value if os.path.lexists(value) else os.path.expanduser(value)
    return os.path.abspath(expanded) if expanded.startswith("~") else expanded


def _path(value: str, is_sweep: bool) -> str:
    if os.path.lexists(value):
        return literal(value)
    if _is_for_hydra(value, is_sweep) or _is_list_of_paths(value):
        return value
    if INTERPOLATION.search(value):
        return written_as(value)
    if is_sweep and "," in value:
        return ",".join(_path(part.strip(), is_sweep=False) for part in value.split(","))
    return literal(value)


def _is_for_hydra(value: str, is_sweep: bool) -> bool:
    """Whether it is null or empty, in quotes, or a function of Hydra's."""
    if value[:1] in ("'", '"'):
        parsed = parsed_override(f"key={value}")
        return parsed is not None and (is_sweep or isinstance(parsed.value(), str))
    return value.lower() in ("null", "") or (is_sweep and FUNCTION.fullmatch(value) is not None)


def _is_list_of_paths(value: str) -> bool:
    """Whether it is a list of files, such as several sources, rather than the name of one, or a glob."""
    parsed = parsed_override(f"key={value}") if value[:1] == "[" else None
    paths = parsed.value() if parsed is not None else None
    return isinstance(paths, list) and len(paths) > 1 and all(os.path.lexists(plain_text(str(path))) for path in paths)


# What conf/ asks for as ${run_name:…} and the like.


def run_name(root: str, arch: str) -> str:
    """Returns "zoo10-mobilenet_v2" for ("../images/zoo10/", "mobilenet_v2")."""
    return re.sub(r"[^\w.-]+", "_", f"{Path(root).resolve().name}-{arch}")


def unique_name() -> str:
    """Returns the time and a random suffix."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(3)}"


@functools.cache
def shared_name() -> str:
    """Returns a unique name, the same in all processes that torchrun or SLURM started, however often it is asked."""
    if place_in_job().world_size == 1:
        return unique_name()
    from headstart.processes import from_first
    from headstart.training.jobs import join

    join()
    return from_first(unique_name())


def choices_page() -> str:
    """Returns the options of each group of conf/ for the help page, a paragraph per group."""
    lines = (f"{group}: {', '.join(options_of(group))}" for group in GROUPS if options_of(group))
    return "\n".join(textwrap.fill(line, 80, subsequent_indent="    ", break_on_hyphens=False) for line in lines)


def register_resolvers() -> None:
    """Registers the resolvers that conf/ uses, for a new run."""
    shared_name.cache_clear()

    def trial(over: ListConfig, fixed: ListConfig) -> str:
        return trial_name(values_of_trial(over, fixed))

    resolvers: dict[str, Callable[..., str]] = {
        "run_name": run_name,
        # Launchers pickle the resolvers; a cache made here would not be found again by its name.
        "unique_name": shared_name,
        "trial_name": trial,
        "direction": lambda objective: f"{metric_of(objective).direction}imize",
        "choices": choices_page,
    }
    for key, resolver in resolvers.items():
        OmegaConf.register_resolver(key, resolver, replace=True)


# Also on import: a process that runs a trial for another one starts no script.
register_resolvers()
