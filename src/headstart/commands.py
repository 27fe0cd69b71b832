"""Commands in messages: quoted, so that they can be pasted into a shell."""

import os
import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path


def command(script: str, arguments: Iterable[str]) -> str:
    """ "python train.py model.lr=0.1", or "headstart train model.lr=0.1"; `script` is the script's name."""
    running = Path(sys.argv[0])
    if running.name in ("headstart", "headstart.exe") or running.parts[-2:] == ("headstart", "__main__.py"):
        return " ".join(["headstart", script.removesuffix(".py"), *map(quoted, arguments)])
    # In a test, a notebook or another program it is one of somebody else's.
    path = running.with_name(script) if running.name in ("train.py", "predict.py") else Path(script)
    return " ".join(["python", *map(quoted, [str(path), *arguments])])


def shown(path: Path) -> Path:
    """`path` as short as it can be given from the current folder."""
    place = path.absolute()
    return place.relative_to(Path.cwd()) if Path.cwd() in place.parents else path


def quoted(word: str) -> str:
    """`word` as a shell reads it; bytes that are not text, and line breaks, as escapes."""
    if word.isprintable():
        return shlex.quote(word)
    content = "".join(_escaped(byte) for byte in os.fsencode(word))
    return f"$'{content}'"


def _escaped(byte: int) -> str:
    character = chr(byte)
    return character if re.fullmatch(r"[\w ./=,:+@%-]", character, re.ASCII) else f"\\x{byte:02x}"
