"""Networks of every family round-trip; the export itself compares the files with the classifier."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torchvision
from conftest import settings_of
from tiny_classifier import fitted
from torch import nn
from torchvision.models import ConvNeXt, EfficientNet, ResNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.resnet import Bottleneck

from headstart.backbones.backbone import load_backbone
from headstart.config.model import ExportSettings
from headstart.export.model_file import open_model
from headstart.export.write import export
from headstart.run_folder import RunFolder

for package in ("onnx", "onnxscript", "onnxruntime", "timm"):
    pytest.importorskip(package)
pytestmark = pytest.mark.slow
# An export takes time for each block: these are torchvision's networks with fewer blocks of each kind. MobileNetV2 is
# exported as deep as it is, for rounding adds up; but not for PyTorch itself, which rounds as the classifier does.
SHALLOW: dict[str, Callable[[], nn.Module]] = {
    "resnet50": partial(ResNet, Bottleneck, [1, 1, 1, 1]),
    "efficientnet_b0": partial(EfficientNet, [MBConvConfig(1, 3, 1, 32, 16, 1), MBConvConfig(6, 5, 2, 16, 24, 2)], 0.2),
    "convnext_tiny": partial(ConvNeXt, [CNBlockConfig(96, 192, 1), CNBlockConfig(192, None, 2)]),
    "vit_b_16": partial(VisionTransformer, 64, 16, num_layers=2, num_heads=3, hidden_dim=192, mlp_dim=768),
}


@pytest.mark.parametrize("arch", [*SHALLOW, "mobilenet_v2", "timm/tf_mobilenetv3_small_minimal_100"])
def test_export__is_as_the_classifier(arch: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if arch in SHALLOW:
        monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: SHALLOW[name]())
    settings = settings_of(
        *("data=folder", "data.root=x", f"model.arch={arch}", "model.weights=null"),
        *("data.image_size=64", "data.resize_size=64"),
    )
    classifier = fitted(load_backbone(settings.model, settings.data, seed=0))
    formats = "onnx" if arch == "mobilenet_v2" else "all"
    paths = export(classifier, RunFolder(tmp_path), ExportSettings(formats, "float32", "model", None))
    for path in paths:
        compared = open_model(path).info.compared
        assert compared is not None
        assert compared["images"] == 10
        assert compared["probability"] <= 1e-4
