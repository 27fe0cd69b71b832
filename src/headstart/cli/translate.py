"""Settings of other tools that headstart does not have under another name, but as something else."""

from collections.abc import Callable

from headstart.errors import HeadstartError

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
Translator = Callable[[str, str], list[str]]


def translated(name: str, value: str, *, trains: bool) -> list[str] | None:
    """The overrides that stand for the setting `name` of another tool, such as pretrained; None: there are none.

    Raises:
        HeadstartError: headstart does not have it, and why.
    """
    leaf = name.lower().replace("-", "_").rpartition(".")[2]
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
    return ["finetune=gradual" if value.lower() in NO else "finetune=none"]


def _unfrozen(name: str, value: str) -> list[str]:
    return ["finetune=none" if value.lower() in NO else "finetune=gradual"]


def _half(name: str, value: str) -> list[str]:
    if value.lower() in NO:
        return ["trainer.precision=32"]
    return [f"trainer.precision={'bf16' if name == 'bf16' else '16'}-mixed"]


def _early_stopping(name: str, value: str) -> list[str]:
    if value.lower() in NO:
        return ["callbacks.early_stopping=null"]
    return [f"callbacks.early_stopping.patience={value if value.isdigit() and value != '1' else 5}"]


def _test(name: str, value: str) -> list[str]:
    return ["task=test"]


def _mode(name: str, value: str) -> list[str]:
    names = {"eval": "test", "evaluate": "test", "validate": "test", "val": "test", "check": "audit"}
    return [f"task={names.get(value.lower(), value)}"]


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
