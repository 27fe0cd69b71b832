"""Checkpoints on disk: written whole or not at all, read without running code."""

from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from headstart.errors import HeadstartError
from headstart.features.encoder import Encoder
from headstart.files import replacing
from headstart.model.classifier import Classifier, Recipe
from headstart.model.weights import read_safely, restore_backbone
from headstart.settings import EncoderSettings


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's own writes its temporary file elsewhere, maybe on another disk, where a rename is a slow copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with replacing(Path(path)) as temporary:
            torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint of this project holds.

    Raises:
        HeadstartError: the file is missing, damaged, unsafe, or not a checkpoint of this project.
    """
    checkpoint = read_safely(path)
    try:
        Recipe.from_dict(checkpoint["hyper_parameters"])
    except (KeyError, TypeError):
        raise HeadstartError(f"{path} is not a checkpoint of this project's train.py") from None
    return checkpoint


def load_classifier(path: Path, features: EncoderSettings, moved_to: str | None) -> Classifier:
    """The classifier in the checkpoint `path`, in eval mode, its backbone run as `features` says.

    A precision of "auto" is the one it was trained with, which for a backbone that was trained itself is 32.

    `moved_to` is where the backbone's weights are, should their file not be where it was.

    Raises:
        HeadstartError: as `read_checkpoint`, or the backbone's weights are gone or changed.
    """
    checkpoint = read_checkpoint(path)
    recipe = Recipe.from_dict(checkpoint["hyper_parameters"])
    backbone = restore_backbone(recipe.backbone, moved_to=moved_to, preprocessing=recipe.preprocessing)
    trained_with = recipe.precision if recipe.finetune.first_epoch is None else "32"
    precision = trained_with if features.precision == "auto" else features.precision
    encoder = Encoder(backbone, precision=precision, compile=features.compile)
    return Classifier(encoder, recipe).restore(checkpoint).eval()
