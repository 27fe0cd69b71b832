"""Checkpoints as version 0.1 wrote them."""

from pathlib import Path
from typing import Any

import torch


def downgrade(path: Path, *, rest_lr_factor: float = 1.0) -> None:
    """Turns the checkpoint `path` into one of version 0.1."""
    checkpoint = torch.load(path, weights_only=True)
    recipe = checkpoint["hyper_parameters"]
    assert recipe["preprocessing"].pop("interpolation") == "bilinear", "0.1 had no other"
    assert recipe.pop("head") == "mlp", "0.1 had no other"
    recipe["finetune"]["rest_lr_factor"] = rest_lr_factor
    for part in {"state_dict", "current_model_state"} & checkpoint.keys():
        checkpoint[part] = {
            f"backbone.{key.removeprefix('encoder.')}" if key.startswith("encoder.") else key: value
            for key, value in checkpoint[part].items()
        }
    _count_epochs_from_0(checkpoint["callbacks"])
    torch.save(checkpoint, path)


def _count_epochs_from_0(callbacks: dict[str, Any]) -> None:
    for name in ("History", "BestAndLast"):
        assert callbacks[name].pop("first_epoch") == 1
    callbacks["BestAndLast"]["best_epoch"] -= 1
    for row in callbacks["History"]["rows"]:
        row["epoch"] -= 1
        row.pop("unfrozen_stages", None)
