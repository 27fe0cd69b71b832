"""Settings of other tools that headstart does not have under another name, but as something else."""

from collections.abc import Callable

from headstart.config.train import TASKS
from headstart.errors import HeadstartError
from headstart.run_folder import newest_run

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
