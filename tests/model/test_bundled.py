"""The bundled backbone, and the program that bundles one."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Script, draw_classes
from torch import nn
from torchvision.models import get_model

from headstart.data.shapes import PRETRAINING_CLASSES
from headstart.data.transforms import Preprocessing
from headstart.errors import HeadstartError
from headstart.files import sha256_of
from headstart.model import bundled
from headstart.model.bundled import BUNDLED, FOLDER, bundled_file
from headstart.model.bundled.__main__ import bundle
from headstart.model.checkpoint import read_checkpoint
from headstart.model.classifier import NETWORK
from headstart.model.weights import load_backbone

ARCH = "mobilenet_v3_small"
SIZES = Preprocessing(resize_size=112, image_size=96)


def test_record__tells_of_the_file() -> None:
    path = bundled_file(ARCH)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == sha256_of(path)
    assert record["command"] == "python train.py experiment=pretrain_shapes finetune=full"
    assert record["classes"] == len(PRETRAINING_CLASSES)
    assert path.stat().st_size <= 4e6
    assert {value.dtype for value in torch.load(path, weights_only=True).values()} == {torch.float16}


def test_backbone__is_torchvisions_network_with_these_weights() -> None:
    backbone, source = load_backbone(ARCH, BUNDLED, seed=0, preprocessing=SIZES)
    assert source.weights == BUNDLED
    network = get_model(ARCH, weights=None)
    network.classifier[3] = nn.Identity()
    missing, extra = network.load_state_dict(torch.load(bundled_file(ARCH), weights_only=True), strict=False)
    assert not extra
    assert all(name.endswith("num_batches_tracked") for name in missing)
    pictures = torch.randint(0, 256, (4, 3, 96, 96), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (SIZES.mean, SIZES.std))
    with torch.no_grad():
        expected = network.eval()((pictures / 255 - mean) / std)
        torch.testing.assert_close(backbone(pictures), expected)


def test_damaged__is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FOLDER, tmp_path / "bundled")
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "bundled")
    content = bytearray((tmp_path / "bundled" / f"{ARCH}.pth").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "bundled" / f"{ARCH}.pth").write_bytes(content)
    with pytest.raises(HeadstartError, match="is damaged: install the project again"):
        load_backbone(ARCH, BUNDLED, seed=0, preprocessing=SIZES)


def test_other_architecture__is_refused() -> None:
    with pytest.raises(HeadstartError, match=f"not there for model.arch=resnet18, only for: {ARCH}"):
        load_backbone("resnet18", BUNDLED, seed=0, preprocessing=SIZES)


@pytest.fixture
def run(script: Script, tmp_path: Path) -> Path:
    """The folder of a run that trained everything."""
    data = draw_classes(tmp_path / "flat", 6)
    result = script(
        "train.py",
        *SMALL,
        f"data.root={data}",
        "data.split.train=3",
        "data.split.valid=2",
        "finetune=full",
        "trainer.max_epochs=1",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert result.status == 0, result.err
    return tmp_path / "run"


def test_bundle__holds_what_the_run_has_trained(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    path = bundle(checkpoint, tmp_path / "new")
    assert path.name == "shufflenet_v2_x0_5.pth"
    trained = {k.removeprefix(NETWORK): v for k, v in read_checkpoint(checkpoint)["state_dict"].items() if NETWORK in k}
    found = torch.load(path, weights_only=True)
    assert {name for name in trained if not name.endswith("num_batches_tracked")} == set(found)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.float(), trained[name], rtol=1e-3, atol=1e-6)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == sha256_of(path)
    assert record["metrics"] == json.loads((run / "metrics.json").read_text())
    assert record["command"].startswith("python ")
    assert "finetune=full" in record["command"]


def test_bundle__of_a_frozen_backbone_is_refused(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = sorted(FOLDER.iterdir())
    monkeypatch.setattr(sys, "argv", ["bundled", str(trained / "checkpoints" / "best.ckpt")])
    with pytest.raises(SystemExit, match=r"error: .* is not of a run with model\.weights=null finetune=full"):
        runpy.run_module("headstart.model.bundled", run_name="__main__", alter_sys=True)
    assert sorted(FOLDER.iterdir()) == before
