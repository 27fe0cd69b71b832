"""The names of torchvision's classification models, read from its source, because importing it takes seconds."""

import functools
import importlib.util
import re
from pathlib import Path

REGISTERED = re.compile(r"^@register_model\(\)\n(?:(?!def ).*\n)*?def (\w+)\(", re.MULTILINE)


@functools.cache
def architecture_names() -> tuple[str, ...]:
    """What `model.arch` accepts; empty if the source cannot be read."""
    found = importlib.util.find_spec("torchvision")
    sources = [
        path.read_text(encoding="utf-8")
        for folder in (found.submodule_search_locations if found else None) or []
        for path in sorted(Path(folder, "models").glob("*.py"))
    ]
    return tuple(sorted({name for source in sources for name in REGISTERED.findall(source)}))
