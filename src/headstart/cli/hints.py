"""Hints on a command line that Hydra does not understand: what is certainly meant is done, the rest is an error."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from headstart.cli.arguments import Program, Token, expand_home, flags, split
from headstart.config.checks import (
    UNCERTAIN,
    VAGUE,
    architecture_names,
    family_in_timm,
    nearest,
    suggestion,
)
from headstart.config.lightning import RESERVED
from headstart.config.model import is_model_file
from headstart.config.overrides import given, key_of, written_as
from headstart.config.train import TASKS, TrainSettings, known_keys, switches
from headstart.data.archives import is_archive
from headstart.errors import HeadstartError
from headstart.log import command, log, quoted
from headstart.run_folder import NEWEST, checkpoint_in, newest_run, runs_named

# Settings of other tools that headstart has as something else, and values that a group of conf/ does not have.


class Rule(NamedTuple):
    """What settings with these `names` and `values`, a regular expression, stand for: overrides, or an error.

    {0} is the first group of the expression. An error may name the {name} as it was typed, its {leaf} and its {value}.
    """

    names: str
    values: str
    overrides: str
    error: str = ""


YES, NO, ANY = "true|yes|on|1|", "false|no|off|0|none|null", ".*"
OPTIMIZER, LOSS = "optimizer optim opt momentum betas nesterov", "loss criterion loss_fn"
CLASSES = "num_classes n_classes nb_classes classes class_names"
DEVICE, FREEZE = "device gpu cuda", "freeze frozen freeze_backbone feature_extract"
UNFREEZE = "unfreeze fine_tune finetuning fine_tuning"
HALF, TEST = "amp fp16 bf16 half mixed_precision", "test eval evaluate test_only validate"
DOUBTFUL = (
    "{leaf}={value} may mean finetune=gradual (the top of the backbone, stage by stage) or finetune=full (all of it): "
    "choose one of them"
)
NO_SUCH, GPU = "there is no setting '{name}': ", "trainer.accelerator=gpu"
# What no program has.
NOWHERE = (
    Rule(OPTIMIZER, ANY, "", f"{NO_SUCH}the optimizer is AdamW, set by model.lr and model.weight_decay"),
    Rule(LOSS, ANY, "", f"{NO_SUCH}the loss is the cross-entropy, set by model.label_smoothing and data.balance"),
    Rule(CLASSES, ANY, "", f"{NO_SUCH}the class folders are the classes"),
)
# The first rule that fits is applied.
TRAIN = (
    *NOWHERE,
    Rule("pretrained", YES, "model.weights=default"),
    Rule("pretrained", NO, "model.weights=null"),
    Rule("pretrained", "(.*)", "model.weights={0}"),
    Rule("cpu", ANY, "trainer.accelerator=cpu"),
    Rule(DEVICE, "cpu(:.*)?", "trainer.accelerator=cpu"),
    Rule("gpu cuda", "(false|no|off|none|null)(:.*)?", "trainer.accelerator=cpu"),
    *(Rule(DEVICE, f"{kind}(:.*)?", f"trainer.accelerator={kind}") for kind in ("mps", "auto", "tpu")),
    Rule(DEVICE, r"(\d+):?", f"{GPU} trainer.devices=[{{0}}]"),
    Rule(DEVICE, "[^:]*:(.+)", f"{GPU} trainer.devices=[{{0}}]"),
    Rule(DEVICE, ANY, GPU),
    Rule("gpus", NO, "trainer.accelerator=cpu"),
    Rule("gpus", "true|yes|on|", GPU),
    Rule("gpus", "(.*)", f"{GPU} trainer.devices={{0}}"),
    Rule(FREEZE, NO, "", DOUBTFUL),
    Rule(FREEZE, ANY, "finetune=none"),
    Rule(UNFREEZE, NO, "finetune=none"),
    Rule(UNFREEZE, ANY, "", DOUBTFUL),
    Rule(HALF, NO, "trainer.precision=32"),
    Rule("bf16", ANY, "trainer.precision=bf16-mixed"),
    Rule(HALF, ANY, "trainer.precision=16-mixed"),
    Rule("early_stopping", NO, "callbacks.early_stopping=null"),
    Rule("early_stopping", r"(?!1$)(\d+)", "callbacks.early_stopping.patience={0}"),
    Rule("early_stopping", ANY, "callbacks.early_stopping.patience=5"),
    Rule(TEST, YES, "task=test"),
    Rule(TEST, ANY, "", "{leaf}={value} is not a setting: task=test scores a run on the test split: {run}"),
    Rule("mode phase", "eval|evaluate|validate|val", "task=test"),
    Rule("mode phase", "check", "task=audit"),
    Rule("mode phase", f"((?-i:{'|'.join(TASKS)}))", "task={0}"),
    Rule("mode phase", ANY, "", f"{{leaf}}={{value}} is not a setting: task= is one of {', '.join(TASKS)}"),
    # Groups of conf/, where they have no such option.
    Rule("finetune", YES, "", "finetune={value} may mean finetune=gradual or finetune=full: choose one of them"),
    Rule("finetune", NO, "finetune=none"),
    Rule("finetune", "all", "finetune=full"),
    Rule("trainer", "cuda", GPU),
    *(Rule("trainer", kind, f"trainer.accelerator={kind}") for kind in ("mps", "auto", "tpu")),
    Rule("logger", NO, "logger=none"),
)
PREDICT = (
    *NOWHERE,
    Rule("cpu", ANY, "accelerator=cpu"),
    Rule(f"{DEVICE} gpus", "cpu(:.*)?", "accelerator=cpu"),
    Rule("gpu gpus cuda", "(false|no|off|none|null)(:.*)?", "accelerator=cpu"),
    *(Rule(f"{DEVICE} gpus", f"{kind}(:.*)?", f"accelerator={kind}") for kind in ("mps", "auto")),
    Rule(f"{DEVICE} gpus", ANY, "accelerator=cuda"),
)
TRANSLATED = {name for rule in (*TRAIN, *PREDICT) for name in rule.names.split()}
# What other tools call the size of the test split, and the groups in which it may be called test.
TEST_SIZES, SPLITS = ("test_split", "test_size", "test_ratio", "test_fraction"), ("split", "data", "data.split")


def translated(name: str, value: str, program: Program) -> list[str] | None:
    """Returns the overrides that stand for the setting `name` of another tool, such as pretrained, or None.

    Raises:
        HeadstartError: headstart does not have it, and why.
    """
    group, _, leaf = name.lower().replace("-", "_").rpartition(".")
    is_number = value.replace(".", "").isdigit() and value != "1"
    if leaf in TEST_SIZES or (leaf == "test" and (group in SPLITS or (group == "" and is_number))):
        raise HeadstartError(
            f"there is no setting '{name}': the test split has what data.split.train and data.split.valid leave"
        )
    # Keys in headstart's own groups are its own, or typos of these.
    if group != "trainer" and any(key.startswith(f"{group}.") for key in known_keys(TrainSettings)):
        return None
    return _apply(TRAIN if program.trains else PREDICT, name, leaf, value)


def _apply(rules: tuple[Rule, ...], name: str, leaf: str, value: str) -> list[str] | None:
    """Returns what the first rule that fits says; None if none does."""
    for rule in rules:
        fits = re.fullmatch(rule.values, value, re.IGNORECASE | re.DOTALL) if leaf in rule.names.split() else None
        if fits and rule.error:
            raise HeadstartError(rule.error.format(name=name, leaf=leaf, value=value, run=newest_run()))
        if fits:
            return [override.format(*fits.groups()) for override in rule.overrides.split()]
    return None


# What is meant by a bare word, and by group=value where conf/ has no such option.

# Files with weights.
WEIGHTS = (".pth", ".pt", ".bin", ".safetensors")


def option_meant(group: str, value: str, program: Program) -> list[str] | None:
    """Returns the overrides that stand for group=value if the group has no such option; None if it has.

    Raises:
        HeadstartError: nothing does.
    """
    options = program.options(group)
    parts = value.split(",")
    if not options or set(parts) <= {*options, "null", ""} or not set("[{$(").isdisjoint(value):
        return None
    files: dict[str, Callable[[str], list[str] | None]] = {"data": _data, "model": _model}
    overrides = files[group](value) if group in files else _apply(TRAIN, group, group, value)
    if overrides is not None:
        return overrides
    own = " (a folder of your own: data=folder data.root=DIR)" if group == "data" else ""
    missing = next(part for part in parts if part not in options)
    if group == "model" and (family := family_in_timm(missing)):
        raise HeadstartError(f"model={value} is not available: timm has it, as model.arch={family}")
    raise HeadstartError(f"{group}={value} is not available{nearest(missing, options)}{own}")


def word_meant(word: str, program: Program) -> list[str]:
    """Returns the overrides that stand for a bare word.

    Raises:
        HeadstartError: nothing does.
    """
    if overrides := (_to_train if program.trains else _to_predict)(word):
        return overrides
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


# What people type who know other tools, or not yet this one: it is done where it is certain, and said.

HELP = {"--help", "--hydra-help", "--version", "--shell-completion", "--info"}
# Keys that begin so are Hydra's, arguments of any class, or rejected later, with the reason.
OPEN = ("hydra", "callbacks.", "logger.", *(f"trainer.{key}" for key in sorted(RESERVED)))
# What stands for the value of an option that was typed without one.
MISSING = "VALUE"


def understood(arguments: list[str], program: Program) -> list[str]:
    """Returns `arguments` as settings: what is written in another way, but certain, is replaced, and one line says so.

    Raises:
        HeadstartError: something on the command line is not certain; the message has what it may mean.
    """
    if HELP & flags(arguments).keys():
        return arguments
    tokens = [(token, _corrected(token, program, arguments)) for token in split(arguments, program.is_name)]
    read = [override for token, corrected in tokens if corrected != list(token.typed) for override in corrected]
    if not read:
        return arguments
    right = [override for _, corrected in tokens for override in corrected]
    completed = _with_data(right, read) if program.trains else _with_source(right)
    completed = _with_unlabelled(_with_archs(completed, read), read)
    _check_unambiguous(completed, read, program)
    new = [override for override in completed if override in read or override not in arguments]
    log.info("read as: %s", " ".join(map(quoted, dict.fromkeys(new))))
    return completed


def _check_unambiguous(overrides: list[str], read: list[str], program: Program) -> None:
    """Raises HeadstartError if a value is missing, or what was `read` gives a setting two values."""
    for override in (override for override in read if override in overrides):
        if override.endswith(f"={MISSING}"):
            raise HeadstartError(f"{key_of(override)} needs a value: {command(program.script, overrides)}")
        others = [o for o in overrides if key_of(o) == key_of(override) and o != override and "=" in o]
        if others:
            raise HeadstartError(
                f"{quoted(override)} and {quoted(others[0])} contradict each other: {key_of(override)} has one value"
            )


def _corrected(token: Token, program: Program, arguments: list[str]) -> list[str]:
    """Returns the overrides that stand for what was typed; the same ones if nothing is wrong with it."""
    if token.is_right:
        return list(token.typed)
    if token.name is None:
        return word_meant(token.typed[0], program)
    key, value = key_of(token.name), token.value
    if value is None:
        key, value = _switch(key, program)
    if program.has_group(key):
        return option_meant(key, value, program) or [_override(token, key, value)]
    if key in program.known or key.startswith(OPEN) or not set("/@").isdisjoint(key):
        return [_override(token, key, value)]
    if not program.trains and key in ("model", "weights", "run") and is_checkpoint(value):
        return [f"ckpt_path={value}"]
    if program.name == "predict" and key == "model":
        return [_override(token, key, value)]
    for task in ("export", "label"):
        if (of_task := f"{task}.{key}") in program.known and task in given(arguments, "task"):
            return [f"{of_task}={value}"]
    if (overrides := translated(key, value, program)) is not None:
        return overrides
    return _with_meant_key(token, key, value, program)


def _with_meant_key(token: Token, key: str, value: str, program: Program) -> list[str]:
    """Returns the override with the key that is certainly meant by `key`.

    Raises:
        HeadstartError: it may be meant, or it is an option that headstart does not have.
    """
    keys = program.meant(key)
    if len(keys) == 1 and not _is_doubtful(key, keys[0], value):
        is_dataset = keys[0] == "data.root" and value in program.options("data")
        return [f"data={value}" if is_dataset else f"{keys[0]}={value}"]
    if keys:
        written = " or ".join(quoted(f"{meant}={value}") for meant in keys)
        raise HeadstartError(f"{' '.join(map(quoted, token.typed))} is not a setting: did you mean {written}?")
    if token.typed[0].startswith("-"):
        raise HeadstartError(f"there is no setting '{token.name}'{suggestion(key, program.known)}")
    return [_override(token, key, value)]


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


def _override(token: Token, key: str, value: str) -> str:
    """Returns the override as it was typed, if it was one, which may begin with + or ++."""
    return token.typed[0] if token.typed[0] == f"{token.name}={value}" else f"{key}={value}"


def _switch(name: str, program: Program) -> tuple[str, str]:
    """Returns the key and value of an option without a value, such as --annotate and --no-cache."""

    def is_switch(name: str) -> bool:
        return not set(program.meant(name)[:1]).isdisjoint(switches(program.schema))

    positive = name.removeprefix("no-").removeprefix("no_")
    if positive != name and is_switch(positive):
        return positive, "false"
    is_true = is_switch(name) or not program.meant(name) or name.lower().replace("-", "_") in TRANSLATED
    return name, "true" if is_true else MISSING


def _with_data(overrides: list[str], read: list[str]) -> list[str]:
    """Adds data=folder, once, if what was `read`, or the new run's data, is a folder of images."""
    keys = set(map(key_of, overrides))
    is_new = any(key_of(o) == "data.root" for o in read) or "ckpt_path" not in keys
    if "data.root" in keys and "data" not in keys and is_new:
        overrides = ["data=folder", *overrides]
    return list(dict.fromkeys(overrides))


def _with_archs(overrides: list[str], read: list[str]) -> list[str]:
    """Makes the architectures that were `read` those to compare, for task=compare."""
    if "compare" not in given(overrides, "task"):
        return overrides
    names = [override.partition("=")[2] for override in read if key_of(override) == "model.arch"]
    kept = [override for override in overrides if override not in read or key_of(override) != "model.arch"]
    return [*kept, f"model.archs=[{','.join(names)}]"] if names else kept


def _with_unlabelled(overrides: list[str], read: list[str]) -> list[str]:
    """Makes the folders of images that were `read` those to label, for task=label: the run says what its data are."""
    if "label" not in given(overrides, "task"):
        return overrides
    folders = {f"data.root={value}": f"label.source={value}" for value in given(read, "data.root")}
    kept = [folders.get(override, override) for override in overrides if not (folders and override == "data=folder")]
    return _with_source(kept, "label.source")


def _with_source(overrides: list[str], key: str = "source") -> list[str]:
    """Joins all sources to one."""
    sources = [override.partition("=")[2] for override in overrides if key_of(override) == key]
    others = [override for override in overrides if key_of(override) != key]
    source = sources[0] if len(sources) == 1 else written_as(sources)
    return [*others, f"{key}={source}"] if sources else others
