"""Words and names as they are shown."""

import unicodedata


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
