"""What is meant by a command line that Hydra does not understand: translated where it is certain, otherwise a hint."""

import os
from collections.abc import Callable
from pathlib import Path

from headstart.cli.overrides import Word, expand_home, key_of, split, written_as
from headstart.cli.programs import Script
from headstart.config.checks import UNCERTAIN, VAGUE, architecture_names, family_in_timm, nearest, suggestion
from headstart.config.lightning import RESERVED
from headstart.config.model import is_model_file
from headstart.config.train import TASKS
from headstart.data.archives import is_archive
from headstart.errors import HeadstartError
from headstart.log import command, log, quoted
from headstart.run_folder import NEWEST, checkpoint_in, newest_run, runs_named

# Settings of other tools that headstart does not have under another name, but as something else.


YES, NO = ("true", "yes", "on", "1", ""), ("false", "no", "off", "0", "none", "null")
# What cannot be translated, and why.
REASONS = {
    **dict.fromkeys(
        ("optimizer", "optim", "opt", "momentum", "betas", "nesterov"),
        "the optimizer is AdamW, set by model.lr and model.weight_decay",
    ),
    **dict.fromkeys(
        ("loss", "criterion", "loss_fn"), "the loss is the cross-entropy, set by model.label_smoothing and data.balance"
    ),
    **dict.fromkeys(
        ("num_classes", "n_classes", "nb_classes", "classes", "class_names"), "the class folders are the classes"
    ),
}
# What other tools call the size of the test split, and the groups in which it may be called test.
TEST_SIZES, SPLITS = ("test_split", "test_size", "test_ratio", "test_fraction"), ("split", "data", "data.split")
# Keys in them are headstart's, or typos of these.
OWN_GROUPS = ("data", "data.split", "data.columns", "model", "features", "evaluation", "export", "sweep", "finetune")
Translator = Callable[[str, str], list[str]]


def translated(name: str, value: str, *, trains: bool) -> list[str] | None:
    """The overrides that stand for the setting `name` of another tool, such as pretrained; None: there are none.

    Raises:
        HeadstartError: headstart does not have it, and why.
    """
    group, _, leaf = name.lower().replace("-", "_").rpartition(".")
    is_number = value.replace(".", "").isdigit() and value != "1"
    if leaf in TEST_SIZES or (leaf == "test" and (group in SPLITS or (group == "" and is_number))):
        raise HeadstartError(
            f"there is no setting '{name}': the test split has what data.split.train and data.split.valid leave"
        )
    if group in OWN_GROUPS:
        return None
    if leaf in REASONS:
        raise HeadstartError(f"there is no setting '{name}': {REASONS[leaf]}")
    translator = (TRAIN if trains else PREDICT).get(leaf)
    return translator(leaf, value) if translator else None


def _pretrained(name: str, value: str) -> list[str]:
    if value.lower() in YES:
        return ["model.weights=default"]
    return [f"model.weights={'null' if value.lower() in NO else value}"]


def _device(name: str, value: str) -> list[str]:
    kind, _, number = value.lower().partition(":")
    if name == "cpu" or kind == "cpu" or (name != "device" and kind in NO and kind != "0"):
        return ["trainer.accelerator=cpu"]
    if kind in ("mps", "auto", "tpu"):
        return [f"trainer.accelerator={kind}"]
    number = number or (kind if kind.isdigit() else "")
    return ["trainer.accelerator=gpu", *([f"trainer.devices=[{number}]"] if number else [])]


def _gpus(name: str, value: str) -> list[str]:
    if value.lower() in NO:
        return ["trainer.accelerator=cpu"]
    return [
        "trainer.accelerator=gpu",
        *([f"trainer.devices={value}"] if value.lower() not in YES[:3] and value else []),
    ]


def _device_to_predict(name: str, value: str) -> list[str]:
    kind = value.lower().partition(":")[0]
    if name == "cpu" or kind == "cpu" or (name != "device" and kind in NO and kind != "0"):
        return ["accelerator=cpu"]
    return [f"accelerator={kind if kind in ('mps', 'auto') else 'cuda'}"]


def _frozen(name: str, value: str) -> list[str]:
    return _doubtful_finetuning(name, value) if value.lower() in NO else ["finetune=none"]


def _unfrozen(name: str, value: str) -> list[str]:
    return ["finetune=none"] if value.lower() in NO else _doubtful_finetuning(name, value)


def _doubtful_finetuning(name: str, value: str) -> list[str]:
    raise HeadstartError(
        f"{name}={value} may mean finetune=gradual (the top of the backbone, stage by stage) or finetune=full (all of "
        "it): choose one of them"
    )


def _half(name: str, value: str) -> list[str]:
    if value.lower() in NO:
        return ["trainer.precision=32"]
    return [f"trainer.precision={'bf16' if name == 'bf16' else '16'}-mixed"]


def _early_stopping(name: str, value: str) -> list[str]:
    if value.lower() in NO:
        return ["callbacks.early_stopping=null"]
    return [f"callbacks.early_stopping.patience={value if value.isdigit() and value != '1' else 5}"]


def _test(name: str, value: str) -> list[str]:
    if value.lower() in YES:
        return ["task=test"]
    raise HeadstartError(f"{name}={value} is not a setting: task=test scores a run on the test split: {newest_run()}")


def _mode(name: str, value: str) -> list[str]:
    names = {"eval": "test", "evaluate": "test", "validate": "test", "val": "test", "check": "audit"}
    if (task := names.get(value.lower(), value)) in TASKS:
        return [f"task={task}"]
    raise HeadstartError(f"{name}={value} is not a setting: task= is one of {', '.join(TASKS)}")


TRAIN: dict[str, Translator] = {
    "pretrained": _pretrained,
    **dict.fromkeys(("device", "gpu", "cuda", "cpu"), _device),
    "gpus": _gpus,
    **dict.fromkeys(("freeze", "frozen", "freeze_backbone", "feature_extract"), _frozen),
    **dict.fromkeys(("unfreeze", "fine_tune", "finetuning", "fine_tuning"), _unfrozen),
    **dict.fromkeys(("amp", "fp16", "bf16", "half", "mixed_precision"), _half),
    "early_stopping": _early_stopping,
    **dict.fromkeys(("test", "eval", "evaluate", "test_only", "validate"), _test),
    **dict.fromkeys(("mode", "phase"), _mode),
}
PREDICT: dict[str, Translator] = dict.fromkeys(("device", "gpu", "gpus", "cuda", "cpu"), _device_to_predict)
TRANSLATED = {*TRAIN, *PREDICT}


# What is meant by a bare word, and by group=value where conf/ has no such option.


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


# What people type who know other tools, or not yet this one: it is done where it is certain, and said.


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
