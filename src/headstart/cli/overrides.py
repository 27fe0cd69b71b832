"""From what a user types to what Hydra accepts."""

import functools
import os
import re
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException

from headstart.config.literal import encodable, literal_text, plain_text
from headstart.errors import HeadstartError

# Groups whose entries accept arguments of a Lightning class that are not listed in conf/.
OPEN_GROUPS = re.compile(r"(trainer|callbacks|logger)\.")
# Keys whose values are paths, which may have any characters.
PATHS = {"ckpt_path", "source", "output", "data.root", "data.csv", "data.archive", "model.weights", "features.dir"}
PATHS |= {"hydra.run.dir", "hydra.sweep.dir", "export.path", "model.file"}
# Keys whose values are texts, which may have any characters too.
TEXTS = {"data.group", "data.columns.path", "data.columns.label", "data.columns.split"}
INTERPOLATION = re.compile(r"\$\{[^{}]*\}")
FUNCTION = re.compile(r"(choice|range|glob|shuffle|sort|tag|interval)\(.*\)", re.DOTALL)


def key_of(override: str) -> str:
    """ "model.lr" of "+model.lr=1e-3"."""
    return override.lstrip("+~").partition("=")[0]


def value_of(override: str) -> str:
    """The value of an override, as it was before `with_plain_paths` or the user quoted it."""
    text = override.partition("=")[2]
    if text[:1] in ("'", '"') and (parsed := parsed_override(f"key={text}")) is not None:
        text = str(parsed.value())
    return plain_text(text)


def written_as(value: Any) -> str:
    """How a value of a configuration is written, interpolations included."""
    if isinstance(value, list):
        return f"[{','.join(map(written_as, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return _quoted(value) if isinstance(value, str) else str(value)


def parsed_override(argument: str) -> Override | None:
    """None for a flag, or for what Hydra cannot parse."""
    try:
        return _parser().parse_override(argument)
    except HydraException:
        return None


def with_model_file(arguments: Iterable[str]) -> list[str]:
    """`arguments` of predict.py with model=FILE as model.file=FILE: Hydra would look for it in conf/model."""
    return [f"model.file={arg.partition('=')[2]}" if arg.startswith("model=") else arg for arg in arguments]


def with_plain_paths(arguments: Iterable[str], *, is_sweep: bool) -> list[str]:
    """`arguments` with paths quoted where Hydra would read something else; in a sweep, several values stay several."""
    return [_plain(argument, is_sweep) for argument in arguments]


def literal(text: str) -> str:
    """How a value is written that is exactly this text."""
    return _quoted(literal_text(text))


def for_hydra(arguments: Iterable[str]) -> list[str]:
    """`arguments` with `trainer.x=1` as `++trainer.x=1`.

    Hydra rejects keys that conf/ does not list; headstart.config.trainer checks them.
    """
    return [f"++{argument}" if OPEN_GROUPS.match(argument) else argument for argument in arguments]


def _plain(argument: str, is_sweep: bool) -> str:
    key, equals, value = argument.partition("=")
    if key_of(argument) in TEXTS:
        return argument if _is_for_hydra(value, is_sweep) else f"{key}{equals}{literal(value)}"
    if key_of(argument) in PATHS:
        # Trials differ in their data, not in where the sweep is.
        return _path_override(argument, is_sweep and not key_of(argument).startswith("hydra."))
    return argument


def _path_override(argument: str, is_sweep: bool) -> str:
    key, equals, value = argument.partition("=")
    if key.startswith("hydra.") and "${" in value and not INTERPOLATION.search(value):
        raise HeadstartError(f"{argument} is invalid: Hydra cannot write to a folder with ${{ in its name")
    return f"{key}{equals}{_path(expand_home(value), is_sweep)}"


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
        return _quoted(encodable(value))
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
    found = parsed.value() if parsed is not None else None
    return isinstance(found, list) and len(found) > 1 and all(os.path.lexists(plain_text(str(path))) for path in found)


def _quoted(text: str) -> str:
    """In quotes, if Hydra would read it as something else."""
    parsed = parsed_override(f"key={text}")
    if parsed is not None and not parsed.is_sweep_override() and parsed.value() == text:
        return text
    return str(QuotedString(text, Quote.single).with_quotes())


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser.create()
