"""What is meant by a bare word, and by group=value where conf/ has no such option."""

import os
from collections.abc import Callable
from pathlib import Path

from headstart.cli.script import Script
from headstart.cli.translate import NO, YES
from headstart.commands import quoted
from headstart.config.architectures import architecture_names
from headstart.config.export import is_model_file
from headstart.config.suggest import family_in_timm, nearest
from headstart.config.train import TASKS
from headstart.data.archives import is_archive
from headstart.errors import HeadstartError
from headstart.run_folder import NEWEST, checkpoint_in, runs_named

WEIGHTS = (".pth", ".pt", ".bin", ".safetensors")


def option_meant(group: str, value: str, script: Script) -> list[str] | None:
    """The overrides that stand for group=value if the group has no such option; None if it has.

    Raises:
        HeadstartError: nothing does.
    """
    options = script.options(group)
    parts = value.split(",")
    if not options or set(parts) <= {*options, "null", ""} or not set("[{$(").isdisjoint(value):
        return None
    found = OTHERS[group](value) if group in OTHERS else None
    if found is None:
        own = " (a folder of your own: data=folder data.root=DIR)" if group == "data" else ""
        missing = next(part for part in parts if part not in options)
        if group == "model" and (family := family_in_timm(missing)):
            raise HeadstartError(f"model={value} is not available: timm has it, as model.arch={family}")
        raise HeadstartError(f"{group}={value} is not available{nearest(missing, options)}{own}")
    return found


def word_meant(word: str, script: Script) -> list[str]:
    """The overrides that stand for a bare word.

    Raises:
        HeadstartError: nothing does.
    """
    if found := (_to_train if script.trains else _to_predict)(word):
        return found
    raise HeadstartError(
        f"{quoted(word)} is not a setting: settings are written key=value, with quotes around a value with spaces, and "
        "--help lists them"
    )


def is_checkpoint(word: str) -> bool:
    """Whether it is a checkpoint by its name, the folder of a run or a sweep, or the name of a run in logs/."""
    if word.endswith(".ckpt") or checkpoint_in(Path(word), "best") is not None:
        return True
    return not os.path.lexists(word) and (word == NEWEST or bool(runs_named(word)))


def _is_architecture(word: str) -> bool:
    # Which models timm has, only timm knows, which takes a second to import.
    return word in architecture_names() or word.startswith("timm/")


def _data(value: str) -> list[str] | None:
    if value.lower().endswith((".csv", ".tsv")) or _is_text(value):
        return ["data=csv", f"data.csv={value}"]
    return ["data=folder", f"data.root={value}"] if os.sep in value or os.path.exists(value) else None


def _is_text(path: str) -> bool:
    """Whether it is a file that is called like a text, and no archive."""
    return path.lower().endswith(".txt") or (os.path.isfile(path) and not Path(path).suffix and not is_archive(path))


def _model(value: str) -> list[str] | None:
    if all(_is_architecture(name) for name in value.split(",")):
        return [f"model.arch={value}"]
    if is_checkpoint(value):
        return [f"ckpt_path={value}"]
    return [f"model.weights={value}"] if value.endswith(WEIGHTS) else None


def _finetune(value: str) -> list[str] | None:
    if value.lower() in YES:
        raise HeadstartError(f"finetune={value} may mean finetune=gradual or finetune=full: choose one of them")
    names = dict.fromkeys(NO, "none") | {"all": "full"}
    return [f"finetune={names[value.lower()]}"] if value.lower() in names else None


def _trainer(value: str) -> list[str] | None:
    names = {"cuda": "gpu", "mps": "mps", "tpu": "tpu", "auto": "auto"}
    return [f"trainer.accelerator={names[value.lower()]}"] if value.lower() in names else None


def _logger(value: str) -> list[str] | None:
    return ["logger=none"] if value.lower() in NO else None


# What is meant by values that are not among a group's options.
OTHERS: dict[str, Callable[[str], list[str] | None]] = {
    "data": _data,
    "model": _model,
    "finetune": _finetune,
    "trainer": _trainer,
    "logger": _logger,
}


def _to_train(word: str) -> list[str] | None:
    if word in TASKS and os.path.exists(word):
        raise HeadstartError(f"{word} is a task and a folder here: write task={word} or data=folder data.root={word}")
    if word in TASKS:
        return [f"task={word}"]
    if is_checkpoint(word):
        return [f"ckpt_path={word}"]
    if _is_architecture(word):
        return [f"model.arch={word}"]
    return [f"model.weights={word}"] if word.endswith(WEIGHTS) else _data(word)


def _to_predict(word: str) -> list[str] | None:
    if is_checkpoint(word):
        return [f"ckpt_path={word}"]
    if is_model_file(word):
        return [f"model={word}"]
    looks_like_path = not set("/*?.").isdisjoint(word)
    return [f"source={word}"] if looks_like_path or os.path.exists(word) else None
