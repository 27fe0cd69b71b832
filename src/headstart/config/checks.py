"""What makes a setting valid: constraints on single values, and the arguments that a class takes."""

import ast
import functools
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from typing import Any

# Dataclass fields with a constraint on their value.


def constrained(says: str, test: Callable[[Any], bool], default: Any = MISSING) -> Any:
    """A field whose value must pass `test`; `says` completes the sentence "it must be …".

    The `default` is for settings that an older version recorded, without this field.
    """
    metadata = {"says": says, "test": test}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def optional(says: str, test: Callable[[Any], bool], default: Any = MISSING) -> Any:
    """As `constrained`, or null."""
    return constrained(f"{says}, or null", lambda v: v is None or test(v), default)


def positive_int() -> Any:
    """An integer above 0."""
    return constrained("a positive integer", lambda v: v > 0)


def non_negative_int() -> Any:
    """An integer, 0 or more."""
    return constrained("a non-negative integer", lambda v: v >= 0)


def non_negative(default: Any = MISSING) -> Any:
    """A finite number, 0 or more."""
    return constrained("a non-negative number", lambda v: 0 <= v < float("inf"), default)


def fraction(of: str = "") -> Any:
    """A number from 0 to below 1; `of` says of what."""
    return constrained(f"a fraction{of}, at least 0 and below 1", lambda v: 0 <= v < 1)


def one_of(*choices: str, default: Any = MISSING) -> Any:
    """One of several strings."""
    return constrained(f"one of {', '.join(choices)}", lambda v: v in choices, default)


def auto_or_bool() -> Any:
    """ "auto", true or false."""
    return constrained("auto, true or false", lambda v: v == "auto" or isinstance(v, bool))


def workers() -> Any:
    """A number of worker processes, or "auto"."""
    return constrained("auto or a non-negative integer", lambda v: v == "auto" or is_int(v, least=0))


def is_int(value: Any, least: int) -> bool:
    """Whether `value` is an integer, and not a bool, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def violations(settings: Any, prefix: str = "") -> Iterator[str]:
    """A sentence for each value in `settings`, a dataclass of dataclasses, that breaks its field's constraint."""
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            yield from violations(value, f"{prefix}{item.name}.")
        elif "test" in item.metadata and not item.metadata["test"](value):
            yield f"{prefix}{item.name}={value} is invalid: it must be {item.metadata['says']}"


# The parameters of a class, read from its source, because importing torch and Lightning takes seconds.


@functools.cache
def parameters_of(target: str) -> frozenset[str] | None:
    """The parameter names of `target`, such as "package.module.Class"; None if they cannot be read from its source."""
    module, _, name = target.rpartition(".")
    source = _source_of(module)
    if source is None:
        return None
    for node in ast.parse(source.read_bytes()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _parameters_of_init(node)
    return None


def _source_of(module: str) -> Path | None:
    package, *rest = module.split(".")
    try:
        # find_spec of a submodule imports its parents; of a top-level package it imports nothing.
        found = importlib.util.find_spec(package)
    except ValueError:
        return None
    for folder in (found.submodule_search_locations if found else None) or []:
        base = Path(folder, *rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def _parameters_of_init(node: ast.ClassDef) -> frozenset[str] | None:
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            if item.args.kwarg is not None:
                return None
            return frozenset(arg.arg for arg in [*item.args.args[1:], *item.args.kwonlyargs])
    return None
