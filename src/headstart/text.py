"""Words and names as they are shown, as names of files, and which of them look alike."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable

# What a file's name cannot contain on some system, where it cannot begin or end, and "%", which marks what replaces it.
UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*%]|^[. ]|[. ]$')
# Names that mean devices on Windows, whatever their extension.
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
LONGEST = 200  # bytes of a name; file systems accept 255

# Letters of other alphabets that look like Latin ones.
LOOK_ALIKES = str.maketrans(
    "АВЕЅІЈКМНОРСТУХаеѕіјорсухһԁԛԝɡΑΒΕΖΗΙΚΜΝΟΡΤΥΧοıӀ",
    "ABESIJKMHOPCTYXaesijopcyxhdqwgABEZHIKMNOPTYXoil",
)
QUOTES = dict.fromkeys(map(ord, "\"'`´‘’‚“”„«»‹›ʼ′″"))
NUMBER = re.compile(r"(\d+)(\.0*)?")


def on_one_line(text: object) -> str:
    """Returns the text with line breaks and other control characters as escapes, and `named`."""
    text = named(str(text))
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def columns(text: str) -> int:
    """Returns how many columns of a terminal `text` takes: Chinese characters, for example, take two each."""
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """Returns such as "1 image", "2 images"."""
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


def as_file_names(texts: Iterable[str], others: Iterable[str] = ()) -> dict[str, str]:
    """Returns the name of a file or folder for each text, which is its own on every file system.

    A name that differs from that of an earlier text, or from one of the `others`, in case only is followed by a hash.
    """
    names, taken = dict[str, str](), set(map(_without_case, others))
    for text in texts:
        name = as_file_name(text)
        while _without_case(name) in taken:
            name += f"-{hashlib.sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}"
        taken.add(_without_case(name))
        names[text] = name
    return names


def _without_case(name: str) -> str:
    """Returns what is equal for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def visible(text: str) -> str:
    """Returns a name without case, spaces, quotes, invisible characters and ways to encode or write it."""
    text = unicodedata.normalize("NFKC", text.translate(QUOTES))
    seen = "".join(c for c in text if not (c.isspace() or unicodedata.category(c) in ("Cf", "Cc"))).casefold()
    # As fonts and spreadsheets make them of each other: 1, 01 and 1.0.
    number = NUMBER.fullmatch(seen)
    return str(int(number[1])) if number is not None else unicodedata.normalize("NFKC", seen)


def alike(names: Iterable[str]) -> list[list[str]]:
    """Returns groups of distinct names that cannot be told apart by eye, or differ only in case, quotes or zeros."""
    groups: dict[str, set[str]] = {}
    for name in sorted(set(names)):
        keys = {visible(name), visible(name.translate(LOOK_ALIKES))}
        merged = {name}.union(*(groups.get(key, ()) for key in keys))
        for member in merged:
            for key in (visible(member), visible(member.translate(LOOK_ALIKES))):
                groups[key] = merged
    return sorted(sorted(group) for group in {id(group): group for group in groups.values()}.values() if len(group) > 1)


def with_odd_character(name: str, others: Iterable[str]) -> str:
    """Returns the name in quotes, and its first character that no other has, if it may be taken for another."""
    common = set().union(*others)
    odd = next((c for c in name if not c.isascii() and c not in common), None)
    said = f" (with U+{ord(odd):04X} {unicodedata.name(odd, '')}".rstrip() + ")" if odd is not None else ""
    return f"'{on_one_line(name)}'{said}"


# URLs, and what messages and records call the places of what they lead to.

# Two letters at least: "C:" is a drive. As a Path, "://" becomes ":/".
URL = re.compile(r"(?!file:)([a-z][a-z0-9+.-]+):/+(?=[^/])", re.IGNORECASE)


def is_url(place: object) -> bool:
    """Whether `place` is the URL of something remote."""
    return URL.match(str(place)) is not None


_called: dict[str, str] = {}


def call(place: str, name: str) -> None:
    """Lets `named` call the path `place`, and what is in it, by `name`, as `name/ant/1.jpg`."""
    _called[place] = name.rstrip("/")


def named(text: str) -> str:
    """Returns `text` with the names of the places in it."""
    for place, name in _called.items():
        text = text.replace(place, name)
    return text
