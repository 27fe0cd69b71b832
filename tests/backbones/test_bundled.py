"""The bundled backbone."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import settings_of
from torch import nn
from torchvision.models import get_model

from headstart.backbones import provider
from headstart.backbones.backbone import Backbone, load_backbone
from headstart.backbones.provider import BUNDLED_FOLDER, bundled_weights
from headstart.config.model import BUNDLED
from headstart.data.preprocessing import Preprocessing
from headstart.datasets.shapes import PRETRAINING_CLASSES
from headstart.errors import HeadstartError
from headstart.files import sha256_of

ARCH = "mobilenet_v3_small"


def load(arch: str = ARCH) -> Backbone:
    settings = settings_of("data=folder", "data.root=x", f"model.arch={arch}", f"model.weights={BUNDLED}")
    return load_backbone(settings.model, settings.data, seed=0)


def test_record__describes_the_file() -> None:
    path, preprocessing = bundled_weights(ARCH)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == sha256_of(path)
    assert record["command"] == "python train.py experiment=pretrain_shapes finetune=full"
    assert record["classes"] == len(PRETRAINING_CLASSES)
    assert record["preprocessing"] == preprocessing.as_dict()
    assert path.stat().st_size <= 4e6
    assert {value.dtype for value in torch.load(path, weights_only=True).values()} == {torch.float16}


@pytest.mark.slow
def test_backbone__is_torchvisions_network_with_these_weights() -> None:
    backbone = load()
    assert backbone.source.weights == BUNDLED
    assert backbone.preprocessing == Preprocessing(resize_size=112, image_size=96)
    network = get_model(ARCH, weights=None)
    network.classifier[3] = nn.Identity()
    state = torch.load(bundled_weights(ARCH)[0], weights_only=True)
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
    images = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8)
    sizes = backbone.preprocessing
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (sizes.mean, sizes.std))
    with torch.no_grad():
        expected = network.eval()((images / 255 - mean) / std)
        torch.testing.assert_close(backbone(images), expected)


def test_damaged__is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(BUNDLED_FOLDER, tmp_path / "bundled")
    monkeypatch.setattr(provider, "BUNDLED_FOLDER", tmp_path / "bundled")
    content = bytearray((tmp_path / "bundled" / f"{ARCH}.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bundled" / f"{ARCH}.pth").write_bytes(content)
    with pytest.raises(HeadstartError, match="is damaged: install headstart again"):
        load()


def test_other_architecture__is_an_error() -> None:
    with pytest.raises(HeadstartError, match=rf"is not available for model\.arch=resnet18, only for: {ARCH}"):
        load("resnet18")
