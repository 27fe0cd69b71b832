"""Bundles the backbone of a run of `experiment=pretrain_shapes finetune=full`.

python scripts/bundle_backbone.py RUN/checkpoints/best.ckpt
"""

import shlex
import sys
from pathlib import Path
from typing import Any

import torch

from headstart.backbones.provider import BUNDLED_FOLDER
from headstart.errors import HeadstartError
from headstart.files import read_json, replacing, sha256_of, write_json
from headstart.model.checkpoint import read_checkpoint
from headstart.model.classifier import NETWORK
from headstart.model.recipe import Recipe
from headstart.run_folder import RunFolder, run_folder_of

# Of the run's record.
KEPT = ("git", "packages", "device", "data_fingerprint")


def bundle(checkpoint_path: Path, folder: Path) -> Path:
    """Writes `folder`/<arch>.pth and .json from a checkpoint in its run's folder; returns the first.

    Raises:
        HeadstartError: not a headstart checkpoint, or not of a backbone that was trained as a whole, from scratch.
    """
    checkpoint = read_checkpoint(checkpoint_path)
    recipe = Recipe.from_dict(checkpoint["hyper_parameters"])
    if recipe.backbone.weights is not None or recipe.finetune.rest != 0:
        raise HeadstartError(f"{checkpoint_path} is not of a run with model.weights=null finetune=full")
    state = {
        name.removeprefix(NETWORK): tensor.half()
        for name, tensor in checkpoint["state_dict"].items()
        # A frozen BatchNorm never reads its counter.
        if name.startswith(NETWORK) and tensor.is_floating_point()
    }
    if not all(tensor.isfinite().all() for tensor in state.values()):
        raise HeadstartError(f"{checkpoint_path} has weights beyond the range of float16")
    path = folder / f"{recipe.backbone.arch}.pth"
    with replacing(path) as temporary:
        torch.save(state, temporary)
    write_json(path.with_suffix(".json"), _record(run_folder_of(checkpoint_path), recipe, path))
    return path


def _record(run: RunFolder, recipe: Recipe, path: Path) -> dict[str, Any]:
    record = read_json(run.record)
    return {
        "arch": recipe.backbone.arch,
        "sha256": sha256_of(path),
        "preprocessing": recipe.preprocessing.as_dict(),
        "command": shlex.join(["python", *record["command"]]),
        "seed": recipe.seed,
        "classes": len(recipe.classes),
        "train_images": sum(recipe.class_counts),
        "metrics": read_json(run.metrics),
    } | {key: record[key] for key in KEPT}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("error: the checkpoint is missing: python scripts/bundle_backbone.py RUN/checkpoints/best.ckpt")
    try:
        print(bundle(Path(sys.argv[1]), BUNDLED_FOLDER))
    except (HeadstartError, OSError) as error:
        sys.exit(f"error: {error}")
