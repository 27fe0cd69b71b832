"""Bundles the backbone of a run of `experiment=pretrain_shapes finetune=full`.

python -m headstart.model.bundled RUN/checkpoints/best.ckpt
"""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from headstart.errors import HeadstartError
from headstart.files import RUN_RECORD, replacing, sha256_of, write_json
from headstart.model.bundled import FOLDER
from headstart.model.checkpoint import read_checkpoint
from headstart.model.classifier import NETWORK, Recipe

# Of the run's record.
KEPT = ("git", "packages", "device", "data_fingerprint")


def bundle(checkpoint_path: Path, folder: Path) -> Path:
    """Writes `folder`/<arch>.pth and .json from a checkpoint in its run's folder; returns the first.

    Raises:
        HeadstartError: not a checkpoint of this project, or not of a backbone that was trained whole, from nothing.
    """
    checkpoint = read_checkpoint(checkpoint_path)
    recipe = Recipe.from_dict(checkpoint["hyper_parameters"])
    if recipe.backbone.weights is not None or recipe.finetune.rest != 0:
        raise HeadstartError(f"{checkpoint_path} is not of a run with model.weights=null finetune=full")
    state = {
        name.removeprefix(NETWORK): tensor.half()
        for name, tensor in checkpoint["state_dict"].items()
        # A frozen BatchNorm does not read its counter.
        if name.startswith(NETWORK) and tensor.is_floating_point()
    }
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise HeadstartError(f"{checkpoint_path} has weights beyond the range of float16")
    path = folder / f"{recipe.backbone.arch}.pth"
    with replacing(path) as temporary:
        torch.save(state, temporary)
    write_json(path.with_suffix(".json"), _record(checkpoint_path.absolute().parent.parent, recipe, path))
    return path


def _record(run: Path, recipe: Recipe, path: Path) -> dict[str, Any]:
    record = json.loads((run / RUN_RECORD).read_text(encoding="utf-8"))
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {
        "arch": recipe.backbone.arch,
        "sha256": sha256_of(path),
        "command": shlex.join(["python", *record["command"]]),
        "seed": recipe.seed,
        "classes": len(recipe.classes),
        "train_pictures": sum(recipe.class_counts),
        "metrics": metrics,
    } | {key: record[key] for key in KEPT}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: the checkpoint is missing: python -m headstart.model.bundled RUN/checkpoints/best.ckpt")
    try:
        print(bundle(Path(sys.argv[1]), FOLDER))
    except (HeadstartError, OSError) as error:
        sys.exit(f"error: {error}")
