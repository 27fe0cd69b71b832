"""train.py and predict.py with backbones of timm."""

import csv
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Script

from headstart.model.checkpoint import read_checkpoint

timm = pytest.importorskip("timm")
SETTINGS = (*(word for word in SMALL if not word.startswith("model.")), "data.split.train=6", "data.split.valid=3")
VIT = ("model.arch=timm/test_vit", "model.weights=null", "model.pooling=cls+avg")


def test_vision_transformer__trained_explained_resumed_and_predicted(script: Script, flat: Path) -> None:
    result = script("train.py", f"data.root={flat}", *SETTINGS, *VIT, "trainer.max_epochs=1", "hydra.run.dir=run")
    assert result.status == 0, result.err
    recipe = read_checkpoint(Path("run/checkpoints/best.ckpt"))["hyper_parameters"]
    assert recipe["backbone"] | {"sha256": ""} == {
        "arch": "timm/test_vit",
        "weights": None,
        "seed": 0,
        "sha256": "",
        "cut": "classifier",
        "pooling": "cls+avg",
        "library": f"timm {timm.__version__}",
    }
    assert recipe["preprocessing"]["mean"] == [0.5, 0.5, 0.5]
    whole = script("train.py", f"data.root={flat}", *SETTINGS, *VIT, "trainer.max_epochs=2", "hydra.run.dir=whole")
    resumed = script("train.py", "ckpt_path=run", "trainer.max_epochs=2", "hydra.run.dir=resumed")
    assert (whole.status, resumed.status) == (0, 0), resumed.err
    assert Path("resumed/history.csv").read_text() == Path("whole/history.csv").read_text()
    # Explanations take as long as all else.
    for path in flat.glob("*/?.jpg"):
        if path.stem not in "01":
            path.unlink()
    options = ("output=out", "explain=true", "labelled=true", "accelerator=cpu")
    predicted = script("predict.py", "ckpt_path=run", f"source={flat}", *options)
    assert predicted.status == 0, predicted.err
    rows = list(csv.DictReader(Path("out/predictions.csv").read_text().splitlines()))
    assert len(rows) == len([path for path in flat.rglob("*") if path.is_file()])


def test_residual_network__fine_tuned_stage_by_stage(script: Script, flat: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "own.pth")
    weights = ("model.arch=timm/resnet18", f"model.weights={tmp_path / 'own.pth'}")
    gradual = ("finetune=gradual", "finetune.epochs=[1]", "finetune.lr_factors=[0.1]", "trainer.max_epochs=2")
    result = script("train.py", f"data.root={flat}", *SETTINGS, *weights, *gradual, "hydra.run.dir=run")
    assert result.status == 0, result.err
    assert "own.pth: using the preprocessing of timm's resnet18" in result.out
    rows = list(csv.DictReader(Path("run/history.csv").read_text().splitlines()))
    assert [row["unfrozen_stages"] for row in rows] == ["0", "1"]
    state = read_checkpoint(Path("run/checkpoints/last.ckpt"))["state_dict"]
    trained = {name.split(".")[3] for name in state if name.startswith("encoder.backbone.network.")}
    assert trained == {"layer4"}
    (tmp_path / "own.pth").rename(tmp_path / "moved.pth")
    lost = script("predict.py", "ckpt_path=run", f"source={flat}", "accelerator=cpu")
    assert lost.status == 1
    assert "own.pth does not exist: give another one with model.weights=FILE" in lost.err
    found = script(
        "predict.py", "ckpt_path=run", f"source={flat}", f"model.weights={tmp_path / 'moved.pth'}", "accelerator=cpu"
    )
    assert found.status == 0, found.err
