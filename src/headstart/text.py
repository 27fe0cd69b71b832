"""Words and names as they are shown, and as names of files."""

import hashlib
import re
import unicodedata

# What a file's name cannot contain on some system, where it cannot begin or end, and "%", which marks what replaces it.
UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*%]|^[. ]|[. ]$')
# Names that mean devices on Windows, whatever their extension.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
LONGEST = 200  # bytes of a name; file systems accept 255


def on_one_line(text: object) -> str:
    """With line breaks and other control characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes: Chinese characters, for example, take two each."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Such as "1 image", "2 images"."""
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"


def as_file_name(text: str) -> str:
    """Returns a label or another text as the name of a file or folder, which never leads anywhere else.

    Characters that a path cannot hold become %XX, as in URLs, so that different texts have different names; a long one
    is cut, and ends in a hash.
    """
    name = UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", text) or "%"
    if DEVICES.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    encoded = name.encode(errors="surrogateescape")
    if len(encoded) <= LONGEST:
        return name
    return f"{encoded[:LONGEST].decode(errors='ignore')}-{hashlib.sha256(encoded).hexdigest()[:16]}"
