"""Words and names as they are shown."""


def on_one_line(text: object) -> str:
    """With line breaks and other control characters as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in str(text))


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Such as "1 image", "2 images"."""
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"
