"""Overrides `key=value`: read, quoted, completed, and shortened to names of runs and trials."""

import functools
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from os.path import exists
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import ListConfig, OmegaConf

from headstart.config.predict import EmbedSettings, PredictSettings
from headstart.config.train import TrainSettings, keys_with, literal_text, plain_text
from headstart.errors import HeadstartError
from headstart.machine import place_in_job
from headstart.metrics import metric_of

# What stands on a command line, whatever the form in which it was typed.

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
class Token:
    """A part of a command line, `typed` as one or more arguments.

    It has a `name` and a `value` where it looks like a setting; `name` is None where it is a bare word. `is_right`
    where it is a flag of Hydra, or a deletion (~key).
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


def _first(rest: list[str], is_name: Callable[[str], bool]) -> Token:
    first = rest[0]
    if (values := _values_of_flag(rest)) is not None:
        return Token(tuple(rest[: 1 + values]), is_right=True)
    if first.startswith("-") and len(first) > 1:
        return _option(rest)
    if first.startswith(("~", "=")):
        return Token((first,), is_right=first.startswith("~"))
    return _assignment(rest) if "=" in first else _bare(rest, is_name)


def _values_of_flag(rest: list[str]) -> int | None:
    """How many arguments follow Hydra's flag at the start, which may be shortened; None: there is no such flag."""
    name, has_value, _ = rest[0].partition("=")
    flags = [flag for flag in FLAGS if flag == name] or [f for f in FLAGS if len(name) > 3 and f.startswith(name)]
    if len(flags) != 1 or (name in ("-c", "--cfg") and rest[1:2] and rest[1] not in SHOWN):
        return None
    if name in ("-i", "--info"):
        return int(_has_value(rest))
    return 0 if has_value else min(FLAGS[flags[0]], len(rest) - 1)


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


def key_of(override: str) -> str:
    """Returns "model.lr" of "+model.lr=1e-3"."""
    return override.lstrip("+~").partition("=")[0]


def value_of(override: str) -> str:
    """Returns the value of an override, as it was before `with_plain_paths` or the user quoted it."""
    text = override.partition("=")[2]
    if text[:1] in ("'", '"') and (parsed := parsed_override(f"key={text}")) is not None:
        text = str(parsed.value())
    return plain_text(text)


def written_as(value: Any) -> str:
    """Returns how a value of a configuration is written, interpolations included."""
    if isinstance(value, list):
        return f"[{','.join(map(written_as, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return _quoted(value) if isinstance(value, str) else str(value)


def parsed_override(argument: str) -> Override | None:
    """Returns the override as Hydra parses it; None for a flag, or for what Hydra cannot parse."""
    try:
        return _parser().parse_override(argument)
    except HydraException:
        return None


def with_plain_paths(arguments: Iterable[str], *, is_sweep: bool) -> list[str]:
    """Returns `arguments` with paths quoted where Hydra would read something else; in a sweep, lists stay lists."""
    return [_plain(argument, is_sweep) for argument in arguments]


def literal(text: str) -> str:
    """Returns how a value is written that is exactly this text."""
    return _quoted(literal_text(text))


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
    """The path with the ~ of a home folder replaced; one that is merely called so becomes an absolute one."""
    expanded = value if os.path.lexists(value) else os.path.expanduser(value)
    return os.path.abspath(expanded) if expanded.startswith("~") else expanded


def _path(value: str, is_sweep: bool) -> str:
    if os.path.lexists(value):
        return literal(value)
    if _is_for_hydra(value, is_sweep) or _is_list_of_paths(value):
        return value
    if INTERPOLATION.search(value):
        return _quoted(value)
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


def _quoted(text: str) -> str:
    """In quotes, if Hydra would read it as something else."""
    parsed = parsed_override(f"key={text}")
    if parsed is not None and not parsed.is_sweep_override() and parsed.value() == text:
        return text
    return str(QuotedString(text, Quote.single).with_quotes())


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


# Names of runs, sweeps and trials. Those of sweeps depend only on the command line, so that a rerun finds them.

# Arguments that do not make it another sweep: how many trials there are, where they run or are stored, and what is
# done with them in the end.
NOT_OF_A_SWEEP = (
    *("-", "hydra/launcher", "hydra.launcher.", "hydra.sweeper.n_trials", "hydra.sweeper.n_jobs"),
    *("hydra.sweep.dir", "hydra.mode", "sweep.over", "sweep.fixed", "sweep.ensemble"),
)
# Characters in a folder's name; file systems accept 255 bytes.
LONGEST = 100
LONG_NUMBER = re.compile(r"-?\d*\.\d{5,}(e[+-]?\d+)?|-?\d*\.\d+e[+-]?\d+")
UNSAFE = re.compile(r"[^\w.,=+-]+", re.ASCII)


def run_name(root: str, arch: str) -> str:
    """Returns "zoo10-mobilenet_v2" for ("../images/zoo10/", "mobilenet_v2")."""
    return re.sub(r"[^\w.-]+", "_", f"{Path(root).resolve().name}-{arch}")


def unique_name() -> str:
    """The time and a random suffix."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(3)}"


@functools.cache
def shared_name() -> str:
    """A unique name, the same in all processes that torchrun or SLURM started, and however often it is asked for."""
    if place_in_job().world_size == 1:
        return unique_name()
    from headstart.processes import from_first
    from headstart.training.jobs import join

    join()
    return from_first(unique_name())


def swept_keys(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """The keys given several values ("model.lr" of model.lr=1e-2,1e-3), and those given one."""
    over: list[str] = []
    fixed: list[str] = []
    for override in _parsed(arguments):
        (over if override.is_sweep_override() else fixed).append(str(override.key_or_group))
    return over, fixed


def swept_values(overrides: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """The values that a trial's overrides give to `keys`, in their order."""
    given = {str(o.key_or_group): str(o.get_value_element_as_str()) for o in _parsed(overrides)}
    return {key: given[key] for key in keys if key in given}


def values_of_trial(over: Iterable[str], fixed: Iterable[str]) -> dict[str, str]:
    """The current trial's values of all keys that are swept."""
    return swept_values(as_written(HydraConfig.get().overrides.task), all_swept(over, fixed))


def as_written(overrides: Any) -> list[str]:
    """The overrides that Hydra received, before anything in them is resolved."""
    written = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(written, list)
    return [str(override) for override in written]


def all_swept(over: Iterable[str], fixed: Iterable[str]) -> list[str]:
    """The keys `over` of the command line, and those of the sweeper's search space that are not `fixed`."""
    own = [key.lstrip("+~") for key in HydraConfig.get().sweeper.get("params") or {}]
    return list(dict.fromkeys([*over, *(key for key in own if key not in set(fixed))]))


def sweep_name(arguments: Iterable[str]) -> str:
    """Returns a sweep's name, which does not depend on the order of its arguments: "sweep-dropout-lr-1f2e3d4c"."""
    arguments = [argument for argument in arguments if not argument.lstrip("+").startswith(NOT_OF_A_SWEEP)]
    words = sorted(key.rpartition(".")[2] for key in swept_keys(arguments)[0])
    words += [str(override.value()) for override in _parsed(arguments) if override.key_or_group == "sweep"]
    readable = UNSAFE.sub("_", "-".join(["sweep", *words]))[:LONGEST]
    return f"{readable}-{_digest(sorted(arguments))}"


def trial_name(values: Mapping[str, str]) -> str:
    """Returns a trial's name: "model.dropout=0.2,model.lr=0.01", with a hash if that is not everything."""
    full = ",".join(f"{key}={values[key]}" for key in sorted(values)) or "only"
    short = ",".join(f"{key}={shortened(values[key])}" for key in sorted(values)) or "only"
    safe = UNSAFE.sub("_", short)
    return full if safe == full and len(full) <= LONGEST else f"{safe[:LONGEST]}-{_digest([full])}"


def shortened(value: str) -> str:
    """A number with many digits, to four significant ones."""
    return f"{float(value):.4g}" if LONG_NUMBER.fullmatch(value) else value


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
    }
    for key, resolver in resolvers.items():
        OmegaConf.register_resolver(key, resolver, replace=True)


def _parsed(arguments: Iterable[str]) -> list[Override]:
    """The arguments that are neither flags nor typos, which Hydra will report."""
    return [override for argument in arguments if (override := parsed_override(argument)) is not None]


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]


# Also on import: a process that runs a trial for another one starts no script.
register_resolvers()
