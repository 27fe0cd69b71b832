"""Text, such as a path, as OmegaConf writes it: interpolations escaped, and bytes that are not UTF-8 as interpolations.

`${byte:e9}` is such a byte; the YAML library could not write it.
"""

import os
import re
from typing import Any

SPECIAL = re.compile(r"(\\*)(\$\{|[\udc80-\udcff])")
WRITTEN = re.compile(r"(\\*)\$\{(?:byte:([0-9a-f]{2})\})?")


def literal_text(text: str) -> str:
    """What OmegaConf reads as exactly this text."""
    # Backslashes escape only in front of an interpolation.
    return SPECIAL.sub(lambda found: found[1] * 2 + (r"\${" if found[2] == "${" else _byte(found[2])), text)


def plain_text(written: str) -> str:
    """The inverse of `literal_text`."""
    return WRITTEN.sub(_read, written)


def encodable(text: str) -> str:
    """`text` with interpolations as they are, and bytes that are not UTF-8 as further ones."""
    return re.sub(r"[\udc80-\udcff]", lambda found: _byte(found[0]), text)


def is_encodable(text: str) -> bool:
    """Whether it can be written as UTF-8."""
    return encodable(text) == text


def literals(values: Any) -> Any:
    """Plain values with `literal_text` of each string."""
    if isinstance(values, dict):
        return {key: literals(value) for key, value in values.items()}
    if isinstance(values, list):
        return [literals(value) for value in values]
    return literal_text(values) if isinstance(values, str) else values


def byte(code: object) -> str:
    """The resolver of `${byte:e9}`."""
    return os.fsdecode(bytes.fromhex(str(code).zfill(2)))


def _byte(character: str) -> str:
    return f"${{byte:{ord(character) - 0xDC00:02x}}}"


def _read(found: re.Match[str]) -> str:
    backslashes, code = found[1], found[2]
    kept = "\\" * (len(backslashes) // 2)
    if len(backslashes) % 2:
        return kept + found[0].removeprefix(backslashes)
    return found[0] if code is None else kept + byte(code)
