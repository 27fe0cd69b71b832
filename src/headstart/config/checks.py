"""What makes a setting valid, and suggestions for names that do not exist."""

import ast
import difflib
import functools
import importlib.util
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import MISSING, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from headstart.errors import listed

# The names of torchvision's classification models, read from its source, because importing it takes seconds.

REGISTERED = re.compile(r"^@register_model\(\)\n(?:(?!def ).*\n)*?def (\w+)\(", re.MULTILINE)


@functools.cache
def architecture_names() -> tuple[str, ...]:
    """Returns what `model.arch` accepts; empty if the source cannot be read."""
    files = [file for folder in _folders_of("torchvision") for file in sorted(Path(folder, "models").glob("*.py"))]
    sources = [file.read_text(encoding="utf-8") for file in files]
    return tuple(sorted({name for source in sources for name in REGISTERED.findall(source)}))


# Which key an unknown one was probably meant to be.

# What other tools, and people, call a key. The first key that a script has is meant.
SYNONYMS = {
    "trainer.max_epochs": "epochs epoch num_epochs n_epochs nepochs number_of_epochs max_epoch e",
    "model.lr": "lr learning_rate learningrate base_lr init_lr initial_lr lr0 head_lr",
    "data.batch_size": "batch_size batchsize batch bs b train_batch_size per_device_train_batch_size",
    "data.num_workers": "num_workers workers n_workers nworkers num_worker dataloader_num_workers nw jobs j",
    "model.weight_decay": "weight_decay wd decay l2",
    "model.arch": "arch architecture backbone model_name net network a model.name model.backbone model.type",
    "model.weights": "weights pretrained_weights weights_path model.path model.file model.checkpoint w",
    "model.head": "head classifier model.classifier head_type",
    "model.dropout": "dropout drop drop_rate dropout_rate",
    "model.hidden_dim": "hidden_dim hidden hidden_size hidden_units",
    "model.schedule": "schedule scheduler sched lr_scheduler lr_schedule",
    "model.warmup": "warmup warmup_ratio",
    "model.label_smoothing": "label_smoothing smoothing",
    "data.root": "root data_root data_dir datadir data_path dataset dataset_dir dataset_path dir folder path "
    "images image_dir img_dir input input_dir train_dir source d",
    "source": "root data_root data_dir datadir data_path dataset dataset_dir dataset_path dir folder path files file "
    "images image img image_dir img_dir input input_dir inputs src data i d data.root",
    "data.image_size": "image_size img_size imgsz input_size crop_size size resolution",
    "data.resize_size": "resize_size resize",
    "data.split.valid": "data.split.val data.split.validation val_split valid_split validation_split val_size "
    "valid_size val_ratio val_fraction",
    "data.split.train": "train_split train_size train_ratio train_fraction",
    "ckpt_path": "ckpt checkpoint checkpoint_path ckpt_file resume resume_from resume_from_checkpoint load model_path "
    "c",
    "output": "output_dir out outdir out_dir save_dir save o",
    "hydra.run.dir": "output output_dir out outdir out_dir save_dir log_dir logdir workdir work_dir run_name exp_name "
    "name project o",
    "topk": "top_k k top",
    "callbacks.early_stopping.patience": "patience early_stopping_patience",
    "trainer.accelerator": "accelerator",
    "accelerator": "device trainer.accelerator",
    "trainer.devices": "devices num_gpus n_gpus ngpus num_devices gpu_ids",
    "trainer.precision": "precision",
    "trainer.gradient_clip_val": "grad_clip clip_grad gradient_clip max_grad_norm clip",
    "trainer.accumulate_grad_batches": "grad_accum accumulate gradient_accumulation_steps",
    "seed": "random_seed random_state manual_seed s",
}
# Names that mean one of the group in which they are written, or nothing.
VAGUE = {"name", "path", "dir", "folder", "file", "files", "input", "output", "out", "images", "image", "size", "root"}
VAGUE |= {"data", "top", *"abcdeijkosw"}
# Names that are suggested, and not taken for certain: they may mean a name, a parent folder, or something else.
UNCERTAIN = {"log_dir", "logdir", "workdir", "work_dir", "run_name", "exp_name", "name", "project", "s", "w"}


def meant_keys(name: str, known: Collection[str]) -> list[str]:
    """Returns which `known` keys people mean by `name`, such as "trainer.max_epochs" by "epochs"; several: unclear."""
    name = name.lower().replace("-", "_")
    if name in known:
        return [name]
    group, _, leaf = name.rpartition(".")
    keys = [key for key in _with_synonym(name) if key in known]
    if group:
        siblings = [key for key in _with_synonym(leaf) if key.startswith(f"{group}.")]
        others = [] if leaf in VAGUE or _is_group(group, known) else _with_synonym(leaf)
        keys += [key for key in [*siblings, *others] if key in known]
    if keys:
        return keys[:1]
    same = [key for key in known if key.rpartition(".")[2] == leaf and leaf not in VAGUE]
    return [] if group and _is_group(group, known) else same


def _is_group(name: str, known: Collection[str]) -> bool:
    """Whether keys begin with it: what is written in it is not meant for another one."""
    return any(key.startswith(f"{name}.") for key in known)


def suggestion(key: str, known: list[str]) -> str:
    """Returns the end of a sentence about the unknown `key`: the nearest of the `known` ones, else those beside it."""
    if meant := meant_keys(key, known):
        return f": did you mean '{meant[0]}'?"
    group, _, leaf = key.rpartition(".")
    siblings = [name for name in known if name.startswith(f"{group}.")] if group else _first_parts(known)
    for names, cutoff in ((siblings, 0.6), (known, 0.75)):
        by_leaf = {name.rpartition(".")[2]: name for name in reversed(names)}
        matches = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=cutoff)
        if matches:
            return f": did you mean '{by_leaf[matches[0]]}'?"
    return f": known keys are {listed(siblings or _first_parts(known))}"


def nearest(name: str, names: list[str]) -> str:
    """Returns the end of a sentence about the unknown `name`: the nearest of `names`, or all of them."""
    matches = similar(name, names)
    return f": did you mean {matches[0]}?" if matches else f": choose one of {listed(names)}"


# Well-known families that torchvision does not have, and a small model of each in timm.
IN_TIMM = {
    "dinov2": "timm/vit_small_patch14_dinov2",
    "dinov3": "timm/vit_small_patch16_dinov3",
    "dino": "timm/vit_small_patch16_224.dino",
    "clip": "timm/vit_base_patch32_clip_224",
    "siglip": "timm/vit_base_patch16_siglip_224",
    "convnextv2": "timm/convnextv2_tiny",
    "mobilenetv4": "timm/mobilenetv4_conv_small",
    "deit": "timm/deit_small_patch16_224",
    "beit": "timm/beit_base_patch16_224",
    "eva": "timm/eva02_small_patch14_224",
}


def family_in_timm(name: str) -> str | None:
    """A model in timm of the family that an architecture's name begins with; None: it is none of those known here."""
    return next((model for family, model in IN_TIMM.items() if name.lower().startswith(family)), None)


def similar(name: str, names: Collection[str], most: int = 1) -> list[str]:
    """Returns those of `names` that `name` may be a typo of: alike, and beginning alike, as those of one family."""
    return [close for close in difflib.get_close_matches(name, names, n=3 * most) if _begins_like(name, close)][:most]


def _begins_like(name: str, other: str) -> bool:
    first, second = (re.match(r"[a-z]*", text.lower())[0] for text in (name, other))  # type: ignore[index]
    if min(len(first), len(second)) >= 3 and (first.startswith(second) or second.startswith(first)):
        return True
    return difflib.SequenceMatcher(None, first, second).ratio() >= 0.7


def _with_synonym(name: str) -> Iterator[str]:
    return (key for key, names in SYNONYMS.items() if name in names.split())


def _first_parts(keys: list[str]) -> list[str]:
    return list(dict.fromkeys(key.partition(".")[0] for key in keys))


# Dataclass fields with a constraint on their value.


def constrained(says: str, test: Callable[[Any], bool], default: Any = MISSING) -> Any:
    """A field whose value must pass `test`; `says` completes the sentence "it must be …".

    The `default` is for a key that only some files of a group in conf/ have.
    """
    metadata = {"says": says, "test": test}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def optional(says: str, test: Callable[[Any], bool]) -> Any:
    """A field as of `constrained`, or null."""
    return constrained(f"{says}, or null", lambda v: v is None or test(v))


def positive_int() -> Any:
    """An integer above 0."""
    return constrained("a positive integer", lambda v: v > 0)


def optional_positive_int() -> Any:
    """An integer above 0, or null."""
    return optional("a positive integer", lambda v: v > 0)


def non_negative_int() -> Any:
    """An integer, 0 or more."""
    return constrained("a non-negative integer", lambda v: v >= 0)


def non_negative() -> Any:
    """A finite number, 0 or more."""
    return constrained("a non-negative number", lambda v: 0 <= v < float("inf"))


def fraction(of: str = "") -> Any:
    """A number from 0 to below 1; `of` says of what."""
    return constrained(f"a fraction{of}, at least 0 and below 1", lambda v: 0 <= v < 1)


def one_of(*choices: str) -> Any:
    """A field that is one of several strings."""
    return constrained(f"one of {', '.join(choices)}", lambda v: v in choices)


def auto_or_bool() -> Any:
    """A field that is "auto", true or false."""
    return constrained("auto, true or false", lambda v: v == "auto" or isinstance(v, bool))


def workers() -> Any:
    """A number of worker processes, or "auto"."""
    return constrained("auto or a non-negative integer", lambda v: v == "auto" or is_int(v, least=0))


def path_field(default: Any = MISSING) -> Any:
    """A path, or another text that may have any characters if it names no file."""
    return field(default=default, metadata={"form": "path"})


def text_field(default: Any = MISSING) -> Any:
    """A text that may have any characters, such as the name of a column."""
    return field(default=default, metadata={"form": "text"})


def is_int(value: Any, least: int) -> bool:
    """Whether `value` is an integer, and not a bool, of at least `least`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def violations(settings: Any, prefix: str = "") -> Iterator[str]:
    """A sentence for each value in `settings`, a dataclass of dataclasses, that breaks its field's constraint."""
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            yield from violations(value, f"{prefix}{item.name}.")
        elif "test" in item.metadata and not item.metadata["test"](value):
            yield f"{prefix}{item.name}={value} is invalid: it must be {item.metadata['says']}"


# The parameters of a class, read from its source, because importing torch and Lightning takes seconds.


@functools.cache
def parameters_of(target: str) -> dict[str, str] | None:
    """Returns the parameters of `target`, such as "package.module.Class", sorted by name, with their annotations.

    Returns None if its source does not tell them.
    """
    module, _, name = target.rpartition(".")
    source = _source_of(module)
    body = ast.parse(source.read_bytes()).body if source is not None else []
    classes = [node for node in body if isinstance(node, ast.ClassDef) and node.name == name]
    for item in (item for node in classes for item in node.body):
        if isinstance(item, ast.FunctionDef) and item.name == "__init__" and item.args.kwarg is None:
            arguments = sorted([*item.args.args[1:], *item.args.kwonlyargs], key=lambda argument: argument.arg)
            return {arg.arg: ast.unparse(arg.annotation) if arg.annotation else "" for arg in arguments}
    return None


def _source_of(module: str) -> Path | None:
    package, *rest = module.split(".")
    for folder in _folders_of(package):
        base = Path(folder, *rest)
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                return file
    return None


def _folders_of(package: str) -> list[str]:
    try:
        # find_spec of a submodule imports its parents; of a top-level package it imports nothing.
        spec = importlib.util.find_spec(package)
    except ValueError:
        return []
    return list(spec.submodule_search_locations or []) if spec else []
