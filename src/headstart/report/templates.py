"""HTML from the templates in this folder."""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined


def render(template: str, **values: Any) -> str:
    """The page that `template` makes of `values`; names that are not UTF-8 get a replacement character."""
    environment = Environment(
        loader=FunctionLoader(_source), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(**values).encode("utf-8", "replace").decode()


def _source(name: str) -> str:
    return files("headstart.report").joinpath(name).read_text(encoding="utf-8")
