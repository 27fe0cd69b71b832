"""On which scale each key of a sweep was sampled, as far as its search space says."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from headstart.cli.overrides import key_of

Scale = Literal["log", "linear", "choice"]


def scales_of(params: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Scale]:
    """Of the sweeper's search space `params`, and of the command line's `overrides`, which take precedence."""
    written = {key.lstrip("+~"): str(value) for key, value in params.items()}
    written |= {key_of(override): override.partition("=")[2] for override in overrides}
    scales = {key: _scale_of(text) for key, text in written.items()}
    return {key: scale for key, scale in scales.items() if scale is not None}


def _scale_of(text: str) -> Scale | None:
    """Of tag(log, interval(1e-4, 1e-2)), interval(0, 0.7) or choice(64, 128); None: of values that are listed."""
    if re.match(r"\s*tag\(([^()]*,)?\s*log\s*,", text):
        return "log"
    kind = re.match(r"\s*(?:tag\([^()]*,\s*)?(choice|interval|range)\(", text)
    if kind is None:
        return None
    return "choice" if kind.group(1) == "choice" else "linear"
