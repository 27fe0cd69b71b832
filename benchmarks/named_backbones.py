"""How fast each backbone of conf/model encodes, compared with ResNet50, with random weights; its size and licence.

python benchmarks/named_backbones.py
"""

import statistics
import time
from typing import Any

import timm
import torch
from common import ROOT, save
from hydra import compose, initialize_config_dir

from headstart.backbones.backbone import Backbone, load_backbone
from headstart.cli.arguments import register_resolvers
from headstart.config import options_of
from headstart.config.train import check_train

BATCH, ROUNDS = 2, 3
# torchvision's weights, which have no record of it.
LICENCE = "BSD-3-Clause"


def backbone_of(name: str) -> tuple[Backbone, str]:
    """Returns the backbone that model=NAME chooses, with random weights, and the licence of its own."""
    with initialize_config_dir(str(ROOT / "conf")):
        config = compose("train", [f"model={name}", "model.weights=null", "run_dir=run"])
    settings = check_train(config)
    arch = settings.model.arch.removeprefix("timm/")
    licence = timm.get_pretrained_cfg(arch).license if arch != settings.model.arch else LICENCE
    return load_backbone(settings.model, settings.data, seed=0), str(licence)


def seconds(backbone: Backbone) -> float:
    """Returns the CPU seconds per image of one forward pass in 32-bit precision, on one core."""
    size = backbone.preprocessing.image_size
    images = torch.zeros(BATCH, 3, size, size, dtype=torch.uint8)
    with torch.inference_mode():
        start = time.process_time()
        backbone(images)
    return (time.process_time() - start) / BATCH


def main() -> None:
    """Measures each in turn with ResNet50, so that other programs slow both down."""
    torch.set_num_threads(1)
    register_resolvers()
    usual, _ = backbone_of("resnet50")
    seconds(usual)
    rows: dict[str, dict[str, Any]] = {}
    for name in options_of("model"):
        backbone, licence = backbone_of(name)
        seconds(backbone)
        rows[name] = {
            "arch": backbone.source.arch,
            "licence": licence,
            "parameters": sum(parameter.numel() for parameter in backbone.network.parameters()),
            "width": backbone.embedding_dim,
            "image_size": backbone.preprocessing.image_size,
            "rate": statistics.median(seconds(usual) / seconds(backbone) for _ in range(ROUNDS)),
        }
        print(name, rows[name], flush=True)
    save("named_backbones", backbones=rows)


if __name__ == "__main__":
    main()
