"""Text: counted words, labels that look alike, and the encodings of tables."""

import functools
import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from itertools import pairwise
from math import log

# Words and names as they are shown, and as names of files.


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


def visible(text: str) -> str:
    """What remains of a name without case, spaces, quotes, invisible characters and ways to encode or write it."""
    text = unicodedata.normalize("NFKC", text.translate(QUOTES))
    seen = "".join(c for c in text if not (c.isspace() or unicodedata.category(c) in ("Cf", "Cc"))).casefold()
    # As fonts and spreadsheets make them of each other: 1, 01 and 1.0.
    number = NUMBER.fullmatch(seen)
    return str(int(number[1])) if number is not None else unicodedata.normalize("NFKC", seen)


def alike(names: Iterable[str]) -> list[list[str]]:
    """The groups of distinct names that cannot be told apart by eye, or differ only in case, quotes or zeros."""
    groups: dict[str, set[str]] = {}
    for name in sorted(set(names)):
        keys = {visible(name), visible(name.translate(LOOK_ALIKES))}
        merged = {name}.union(*(groups.get(key, ()) for key in keys))
        for member in merged:
            for key in (visible(member), visible(member.translate(LOOK_ALIKES))):
                groups[key] = merged
    return sorted(sorted(group) for group in {id(group): group for group in groups.values()}.values() if len(group) > 1)


def with_odd_character(name: str, others: Iterable[str]) -> str:
    """The name in quotes, and the first character that is in none of the others, if it may be taken for another."""
    common = set().union(*others)
    odd = next((c for c in name if not c.isascii() and c not in common), None)
    said = f" (with U+{ord(odd):04X} {unicodedata.name(odd, '')}".rstrip() + ")" if odd is not None else ""
    return f"'{on_one_line(name)}'{said}"


# The encoding of a table that is not UTF-8, by how plausible its names are in each one that is common. Tables of a
# few dozen names are too short for the libraries that recognize encodings by their bytes' frequencies: charset-
# normalizer 3.5 takes "Käfer" and "Größe" in Windows-1252 for HP Roman-8, four names in GBK for Windows-1250.


# How many names decide about an encoding.
MOST_NAMES = 200
# The common ones, each with how much less often it is met than the first ones.
PRIOR = {
    **dict.fromkeys(("cp1252", "cp1251", "gb18030", "cp932", "big5", "cp949"), 0.0),
    **dict.fromkeys(("cp1250", "cp1254", "cp1253", "cp1255", "koi8-r"), 0.5),
    **dict.fromkeys(("cp1256", "cp874", "euc_jp", "mac_roman", "cp850", "cp852", "cp866"), 2.0),
}
# The first bytes of the characters that are used most, in encodings with two bytes per character.
FREQUENT = {
    "gb18030": range(0xB0, 0xD8),
    "big5": range(0xA4, 0xC7),
    "cp932": range(0x82, 0x98),
    "euc_jp": range(0xA4, 0xD0),
    "cp949": range(0xB0, 0xC9),
}
# Costs are negative logarithms of probabilities: a letter is one of the alphabet's, an ideograph one of some thousands.
IDEOGRAPH = {"gb18030": 8.2, "big5": 8.6, "cp932": 8.0, "euc_jp": 8.0, "cp949": 10.0}
KANA, CYRILLIC, SYLLABLE = log(80), log(33), log(300)
ALPHABET = {"cp1255": log(22), "cp1256": log(28), "cp1253": log(30)}
# Of what is unusual, and of what no word has.
UNUSUAL, WRONG = 3.0, 5.0
WESTERN = frozenset("äöüßéèêëàâáíîïóôúûñçåøæœãõìòùÄÖÜÉÅØÇ")
CENTRAL = frozenset("ąćęłńóśźżčďěňřšťůúýžáéíőűöüäăâîţşđĽľŽŠČŁŚ")
TURKISH = frozenset("ıışğİŞçöüÇÖÜâ")
USUAL = {"cp1250": CENTRAL, "cp852": CENTRAL, "cp1254": TURKISH}
SYLLABLES = frozenset(
    "가각간갈감강개거건게겨결경계고공과관교구국군권그근기길김나난날남내너네년노농는니다단달당대더도독동두드든등디라락란래량러레려력로록료루"
    "류르른를리린림마만말매머면명모목무문물미민바박반발방배백버번벌법베벽별병보복본부북분불비빈사산살상새색생서석선설성세소속손솔송수숙순술"
    "스시식신실심아안알암애야약양어언업에여역연열영예오온올와왕외요용우운울원월위유육은을음의이인일임입자작잔장재저적전정제조족종주준중지직"
    "진집차참창채책처천철청체초촌최추축충치카코크키타탁태터토통트파판팔펴편평포표풍피필하학한합항해행향허혁현형호화환황회후흥희"
)
JAPANESE = ("cp932", "euc_jp")
MIXED = frozenset(("HIRAGANA", "KATAKANA", "IDEOGRAPHIC", "CJK"))  # scripts within one word
# Letters that in Hebrew only end a word.
FINAL = frozenset("ךםןףץ")
MARK_ON_NOTHING = re.compile(r"(?<![^\W\d_])[\u0300-\u036f\u0590-\u05c7\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]")


def plausible(names: bytes) -> list[tuple[str, str]]:
    """The encodings in which `names`, one per line, can be read, the most plausible first, and each with what it reads.

    Encodings that give the same text are listed once.
    """
    found = []
    for encoding in PRIOR:
        try:
            text = names.decode(encoding)
        except UnicodeDecodeError:
            continue
        found.append((cost(text, encoding), encoding, text))
    texts: dict[str, str] = {}
    for _, encoding, text in sorted(found):
        texts.setdefault(text, encoding)
    return [(encoding, text) for text, encoding in texts.items()]


def cost(text: str, encoding: str) -> float:
    """How implausible `text` is, if it was decoded by `encoding`."""
    letters = sum(_of_character(character, encoding) for character in text if not character.isascii())
    return PRIOR[encoding] + letters + WRONG * sum(_oddities(text))


def _of_character(character: str, encoding: str) -> float:
    kind = unicodedata.category(character)[0]
    if kind not in "LM":
        return CYRILLIC + 2 * WRONG
    if encoding in FREQUENT:
        if _script(character) in ("HIRAGANA", "KATAKANA") and encoding in JAPANESE:
            return KANA
        if character in SYLLABLES:
            return SYLLABLE
        return IDEOGRAPH[encoding] + UNUSUAL * (character.encode(encoding)[0] not in FREQUENT[encoding])
    if _script(character) == "LATIN":
        usual = USUAL.get(encoding, WESTERN)
        return log(len(usual)) + UNUSUAL * (character not in usual)
    return ALPHABET.get(encoding, CYRILLIC) + UNUSUAL * (kind == "M" and encoding != "cp874")


def _oddities(text: str) -> Iterator[float]:
    """What words do not have: capitals after small letters, two alphabets, marks on nothing, Greek without accents."""
    for word in re.findall(r"[^\W\d_]+", text):
        for before, after in pairwise(word):
            yield (1.0 if before.islower() else 0.3) if after.isupper() else 0.0
            yield float(not {_script(before), _script(after)} <= MIXED and _script(before) != _script(after))
            yield float(before in FINAL)
        yield float(len(word) > 2 and _script(word[0]) == "GREEK" and unicodedata.normalize("NFD", word) == word)
    yield float(len(MARK_ON_NOTHING.findall(text)))


@functools.cache
def _script(character: str) -> str:
    return re.split(r"[ -]", unicodedata.name(character, ""))[0]
