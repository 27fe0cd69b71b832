"""What people type who know other tools, or not yet this one: the error has the right command."""

import os

from headstart.cli.guess import is_checkpoint, option_meant, word_meant
from headstart.cli.overrides import key_of
from headstart.cli.script import Script
from headstart.cli.translate import TRANSLATED, translated
from headstart.cli.words import Word, split
from headstart.commands import command, quoted
from headstart.config.suggest import suggestion
from headstart.config.trainer import RESERVED
from headstart.errors import HeadstartError

HELP = {"--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc", "--info", "-i"}
# Keys that begin so are Hydra's, arguments of any class, or rejected later, with the reason.
OPEN = ("hydra", "callbacks.", "logger.", *(f"trainer.{key}" for key in sorted(RESERVED)))
# Keys that need no value when they are written as an option.
SWITCHES = {"annotate", "features.cache", "features.compile", "finetune.batch_norm", "data.near_duplicates"}
SWITCHES |= {"trainer.fast_dev_run", "trainer.deterministic", "trainer.benchmark", "trainer.detect_anomaly"}
MOST_COMPLAINTS = 3


def check_words(arguments: list[str], script: Script) -> None:
    """Raises HeadstartError, with the right command, if something on the command line is not written as a setting."""
    if HELP & set(arguments):
        return
    right: list[str] = []
    wrong: list[str] = []
    for word in split(arguments, script.is_name):
        corrected = _corrected(word, script)
        if corrected != list(word.typed):
            wrong.append(_complaint(word, corrected, script))
        right += corrected
    if wrong:
        more = [f"… and {len(wrong) - MOST_COMPLAINTS} more."] if len(wrong) > MOST_COMPLAINTS else []
        completed = _with_data(right) if script.trains else _with_source(right)
        said = " ".join([*wrong[:MOST_COMPLAINTS], *more])
        raise HeadstartError(f"{said} The command: {command(script.name, completed)}")


def _complaint(word: Word, corrected: list[str], script: Script) -> str:
    name, key = key_of(word.name or ""), key_of(corrected[0])
    is_assignment = word.typed == (f"{word.name}={word.value}",)
    if is_assignment and corrected == [f"{key}={word.value}"] and not script.has_group(name):
        return f"unknown key '{name}': did you mean '{key}'?"
    return f"{' '.join(map(quoted, word.typed))} is written {' '.join(map(quoted, corrected))}."


def _corrected(word: Word, script: Script) -> list[str]:
    """The overrides that stand for what was typed; the same ones if nothing is wrong with it."""
    if word.is_right:
        return list(word.typed)
    if word.name is None:
        return word_meant(word.typed[0], script)
    key, value = key_of(word.name), word.value
    if value is None:
        key, value = _switch(key, script)
    if script.has_group(key):
        return option_meant(key, value, script) or [_override(word, key, value)]
    if key in script.known or key.startswith(OPEN) or not set("/@").isdisjoint(key):
        return [_override(word, key, value)]
    if not script.trains and key in ("model", "weights", "run") and is_checkpoint(value):
        return [f"ckpt_path={value}"]
    if script.name == "predict.py" and key == "model":
        return [_override(word, key, value)]
    if (overrides := translated(key, value, trains=script.trains)) is not None:
        return overrides
    if meant := script.meant(key):
        return [f"{meant}={value}"]
    if word.typed[0].startswith("-"):
        raise HeadstartError(f"there is no setting '{word.name}'{suggestion(key, list(script.known))}")
    return [_override(word, key, value)]


def _override(word: Word, key: str, value: str) -> str:
    """As it was typed, if it was an override, which may begin with + or ++."""
    return word.typed[0] if word.typed[0] == f"{word.name}={value}" else f"{key}={value}"


def _switch(name: str, script: Script) -> tuple[str, str]:
    """The key and value of an option without a value, such as --annotate and --no-cache."""
    positive = name.removeprefix("no-").removeprefix("no_")
    if positive != name and script.meant(positive) in SWITCHES:
        return positive, "false"
    is_switch = script.meant(name) in {*SWITCHES, None} or name.lower().replace("-", "_") in TRANSLATED
    return name, "true" if is_switch else "VALUE"


def _with_data(overrides: list[str]) -> list[str]:
    """With data=folder, once, if there is a folder of images."""
    keys = set(map(key_of, overrides))
    if "data.root" in keys and "data" not in keys:
        overrides = ["data=folder", *overrides]
    return list(dict.fromkeys(overrides))


def _with_source(overrides: list[str]) -> list[str]:
    """With one source, and placeholders for what is missing."""
    sources = [override.partition("=")[2] for override in overrides if key_of(override) == "source"]
    models = ("ckpt_path", "model", "model.file")
    others = [override for override in overrides if key_of(override) not in ("source", *models)]
    found = [override for override in overrides if key_of(override) in models]
    return [*(found or ["ckpt_path=RUN/checkpoints/best.ckpt"]), f"source={_one_source(sources)}", *others]


def _one_source(sources: list[str]) -> str:
    if not sources:
        return "FILE_OR_FOLDER"
    if len(sources) == 1:
        return sources[0]
    folders = {os.path.dirname(source) or "." for source in sources}
    suffixes = {os.path.splitext(source)[1] for source in sources}
    # Folders of both kinds have no common one.
    common = os.path.commonpath({os.path.abspath(folder) for folder in folders})
    folder = common if any(map(os.path.isabs, folders)) else os.path.relpath(common)
    return os.path.join(folder, f"*{suffixes.pop()}") if len(folders) == len(suffixes) == 1 else folder
