"""train.py task=compare as a user runs it."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import ARCH, SMALL, Script

from headstart.backbones.torchvision import build_classifier

COMPARE = (*(word for word in SMALL if not word.startswith(("model.", "trainer.max"))), "task=compare")
RULE = ("data.split.train=6", "data.split.valid=3")


def archs(*names: str) -> str:
    return f"model.archs=[{','.join(names)}]"


def test_compare__one_row_per_backbone_and_the_test_split_left_alone(
    script: Script, flat: Path, tmp_path: Path
) -> None:
    torch.save(build_classifier("squeezenet1_1", 5).state_dict(), tmp_path / "own weights.pth")
    names = (
        "mobilenet_v3_small@bundled",
        f"{ARCH}@null",
        f"'squeezenet1_1@{tmp_path / 'own weights.pth'}'",
        "vgg99",
        "resnet18@x",
    )
    result = script("train.py", f"data.root={flat}", *COMPARE, *RULE, archs(*names), "hydra.run.dir=run")
    assert result.status == 0, result.err
    rows = list(csv.DictReader(Path("run/compare.csv").read_text().splitlines()))
    assert {(row["backbone"], Path(row["weights"]).name) for row in rows} == {
        ("mobilenet_v3_small", "bundled"),
        (ARCH, "random"),
        ("squeezenet1_1", "own weights.pth"),
        ("vgg99", "default"),
        ("resnet18", "x"),
    }
    assert "model.arch=vgg99 is not a torchvision classification model" in rows[3]["reason"] + rows[4]["reason"]
    values = json.loads(Path("run/compare.json").read_text())["candidates"]
    for value in values[:3]:
        assert value["low"] <= value["accuracy"] <= value["high"]
        assert value["accuracy"] == max(value["ridge_accuracy"], value["knn_accuracy"])
        assert value["images_per_second"] > 0
    assert values[0]["accuracy"] >= values[1]["accuracy"] >= values[2]["accuracy"]
    assert f"on the {9 * len(list(flat.iterdir()))} images of train and valid" in result.out
    # Again: nothing is encoded, and the figures are the same.
    again = script("train.py", f"data.root={flat}", *COMPARE, *RULE, archs(*names), "hydra.run.dir=again")
    assert again.status == 0
    second = json.loads(Path("again/compare.json").read_text())["candidates"]
    assert [value.get("accuracy") for value in second] == [value.get("accuracy") for value in values]


def test_compare__none_that_can_be_loaded(script: Script, flat: Path) -> None:
    result = script("train.py", f"data.root={flat}", *COMPARE, *RULE, archs("vgg99"))
    assert result.status == 1
    assert "vgg99 (default) could not be compared: model.arch=vgg99 is not a torchvision" in result.out


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["task=compare"], "task=compare needs model.archs=[ARCH,ARCH@WEIGHTS,…]"),
        (["task=compare", "model.archs=[]"], "task=compare needs model.archs=[ARCH,ARCH@WEIGHTS,…]"),
        (
            ["task=compare", "model.archs=resnet18"],
            "model.archs=resnet18 is invalid: it must be a list, such as model.",
        ),
        (["model.archs=[resnet18]"], "model.archs is for task=compare"),
        (["task=compare", "model.archs=[resnet18]", "features.cache=false"], "task=compare needs features.cache=true"),
        (["task=compare", "model.archs=[resnet18]", "finetune=gradual"], "task=compare needs features.cache=true"),
    ],
)
def test_compare__invalid_settings(script: Script, flat: Path, overrides: list[str], says: str) -> None:
    result = script("train.py", f"data.root={flat}", *SMALL, *overrides)
    assert result.status == 1
    assert says in result.err
    assert len(result.err.strip().splitlines()) == 1
