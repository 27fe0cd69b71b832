"""The parameters of a class, read from its source, because importing torch and Lightning takes seconds."""

import ast
import functools
import importlib.util
from pathlib import Path


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
