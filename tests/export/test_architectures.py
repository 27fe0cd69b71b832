"""Networks of every family round-trip; the export itself compares the files with the classifier."""

from pathlib import Path

import pytest
from conftest import settings_of
from tiny_classifier import fitted

from headstart.backbones.load import load_backbone
from headstart.config.export import ExportSettings
from headstart.export.model_file import open_model
from headstart.export.write import export
from headstart.run_folder import RunFolder

for package in ("onnx", "onnxscript", "onnxruntime", "timm"):
    pytest.importorskip(package)
pytestmark = pytest.mark.slow
# With the smallest size that is tried for each.
ARCHS = {
    "resnet50": 64,
    "mobilenet_v2": 64,
    "efficientnet_b0": 64,
    "convnext_tiny": 64,
    "vit_b_16": 224,
    "timm/tf_efficientnet_lite0": 64,
}


@pytest.mark.parametrize("arch", ARCHS)
def test_export__both_formats(arch: str, tmp_path: Path) -> None:
    size = ARCHS[arch]
    settings = settings_of(
        *("data=folder", "data.root=x", f"model.arch={arch}", "model.weights=null"),
        *(f"data.image_size={size}", f"data.resize_size={size}"),
    )
    classifier = fitted(load_backbone(settings.model, settings.data, seed=0))
    paths = export(classifier, RunFolder(tmp_path), ExportSettings(format="all"))
    for path in paths:
        compared = open_model(path).info.provenance.compared
        assert compared is not None
        assert compared["images"] == 10
        assert compared["probability"] <= 1e-4
