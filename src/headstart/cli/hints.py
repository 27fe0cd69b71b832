"""What people type who know other tools, or not yet this one: it is done where it is certain, and said."""

import os

from headstart.cli.guess import is_checkpoint, option_meant, word_meant
from headstart.cli.overrides import expand_home, key_of, written_as
from headstart.cli.script import Script
from headstart.cli.translate import TRANSLATED, translated
from headstart.cli.words import Word, split
from headstart.commands import command, quoted
from headstart.config.suggest import UNCERTAIN, VAGUE, suggestion
from headstart.config.trainer import RESERVED
from headstart.errors import HeadstartError
from headstart.log import log

HELP = {"--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc", "--info", "-i"}
# Keys that begin so are Hydra's, arguments of any class, or rejected later, with the reason.
OPEN = ("hydra", "callbacks.", "logger.", *(f"trainer.{key}" for key in sorted(RESERVED)))
# Keys that need no value when they are written as an option.
SWITCHES = {"annotate", "features.cache", "features.compile", "finetune.batch_norm", "data.near_duplicates"}
SWITCHES |= {"trainer.fast_dev_run", "trainer.deterministic", "trainer.benchmark", "trainer.detect_anomaly"}
# What stands for the value of an option that was typed without one.
MISSING = "VALUE"


def understood(arguments: list[str], script: Script) -> list[str]:
    """`arguments` as settings: what is written in another way, but certain, is replaced, and one line says so.

    Raises:
        HeadstartError: something on the command line is not certain; the message has what it may mean.
    """
    if HELP & set(arguments):
        return arguments
    words = [(word, _corrected(word, script, arguments)) for word in split(arguments, script.is_name)]
    read = [override for word, corrected in words if corrected != list(word.typed) for override in corrected]
    if not read:
        return arguments
    right = [override for _, corrected in words for override in corrected]
    completed = _with_data(right, read) if script.trains else _with_source(right)
    completed = _with_archs(completed, read)
    _check_unambiguous(completed, read, script)
    new = [override for override in completed if override in read or override not in arguments]
    log.info("read as: %s", " ".join(map(quoted, dict.fromkeys(new))))
    return completed


def _check_unambiguous(overrides: list[str], read: list[str], script: Script) -> None:
    """Raises HeadstartError if a value is missing, or what was `read` gives a setting two values."""
    for override in (override for override in read if override in overrides):
        if override.endswith(f"={MISSING}"):
            raise HeadstartError(f"{key_of(override)} needs a value: {command(script.name, overrides)}")
        others = [o for o in overrides if key_of(o) == key_of(override) and o != override and "=" in o]
        if others:
            raise HeadstartError(
                f"{quoted(override)} and {quoted(others[0])} contradict each other: {key_of(override)} has one value"
            )


def _corrected(word: Word, script: Script, arguments: list[str]) -> list[str]:
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
    if (of_task := f"export.{key}") in script.known and "task=export" in arguments:
        return [f"{of_task}={value}"]
    if (overrides := translated(key, value, trains=script.trains)) is not None:
        return overrides
    return _with_key_meant(word, key, value, script)


def _with_key_meant(word: Word, key: str, value: str, script: Script) -> list[str]:
    """The override with the key that is certainly meant by `key`.

    Raises:
        HeadstartError: it may be meant, or it is an option that headstart does not have.
    """
    found = script.meant_all(key)
    if len(found) == 1 and not _is_doubtful(key, found[0], value):
        dataset = found[0] == "data.root" and value in script.options("data")
        return [f"data={value}" if dataset else f"{found[0]}={value}"]
    if found:
        written = " or ".join(quoted(f"{meant}={value}") for meant in found)
        raise HeadstartError(f"{' '.join(map(quoted, word.typed))} is not a setting: did you mean {written}?")
    if word.typed[0].startswith("-"):
        raise HeadstartError(f"there is no setting '{word.name}'{suggestion(key, list(script.known))}")
    return [_override(word, key, value)]


def _is_doubtful(key: str, meant: str, value: str) -> bool:
    """Whether `key` may mean something else than the key `meant`."""
    leaf = key.lower().replace("-", "_")
    if leaf in UNCERTAIN:
        return True
    # A folder that exists is the images; another one may be for what is written.
    return (
        meant in ("data.root", "source")
        and leaf in VAGUE
        and not os.path.exists(expand_home(value))
        and "*" not in value
    )


def _override(word: Word, key: str, value: str) -> str:
    """As it was typed, if it was an override, which may begin with + or ++."""
    return word.typed[0] if word.typed[0] == f"{word.name}={value}" else f"{key}={value}"


def _switch(name: str, script: Script) -> tuple[str, str]:
    """The key and value of an option without a value, such as --annotate and --no-cache."""
    positive = name.removeprefix("no-").removeprefix("no_")
    if positive != name and script.meant(positive) in SWITCHES:
        return positive, "false"
    is_switch = script.meant(name) in {*SWITCHES, None} or name.lower().replace("-", "_") in TRANSLATED
    return name, "true" if is_switch else MISSING


def _with_data(overrides: list[str], read: list[str]) -> list[str]:
    """With data=folder, once, if what was `read`, or the new run's data, is a folder of images."""
    keys = set(map(key_of, overrides))
    is_new = any(key_of(o) == "data.root" for o in read) or "ckpt_path" not in keys
    if "data.root" in keys and "data" not in keys and is_new:
        overrides = ["data=folder", *overrides]
    return list(dict.fromkeys(overrides))


def _with_archs(overrides: list[str], read: list[str]) -> list[str]:
    """For task=compare, with the architectures that were `read` as those to compare."""
    if "task=compare" not in overrides:
        return overrides
    names = [override.partition("=")[2] for override in read if key_of(override) == "model.arch"]
    kept = [override for override in overrides if override not in read or key_of(override) != "model.arch"]
    return [*kept, f"model.archs=[{','.join(names)}]"] if names else kept


def _with_source(overrides: list[str]) -> list[str]:
    """With all sources as one."""
    sources = [override.partition("=")[2] for override in overrides if key_of(override) == "source"]
    others = [override for override in overrides if key_of(override) != "source"]
    return [*others, f"source={_one_source(sources)}"] if sources else others


def _one_source(sources: list[str]) -> str:
    return sources[0] if len(sources) == 1 else written_as(sources)
