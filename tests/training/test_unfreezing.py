"""What a run says about the stages it unfreezes."""

import csv
from pathlib import Path

import matplotlib
import pytest
import torch
from conftest import SMALL, Script
from PIL import Image
from torch import nn

from headstart.metrics import UNFROZEN, Row
from headstart.report.charts import draw_curves
from headstart.training.callbacks.history import _named, effect_of_finetuning

RULE = ("data.split.train=6", "data.split.valid=3")
GRADUAL = ("finetune=gradual", "finetune.epochs=[1,2]", "finetune.lr_factors=[0.5,0.1]")


def row(epoch: int, loss: float, stages: int) -> Row:
    metrics = {f"{split}/{name}": loss for split in ("train", "valid") for name in ("loss", "acc")}
    return {"epoch": epoch, UNFROZEN: stages} | metrics


def test_run__says_when_stages_are_unfrozen_and_whether_it_helped(script: Script, flat: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = script("train.py", f"data.root={flat}", *SMALL, *RULE, *GRADUAL, f"hydra.run.dir={run}")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    (first,) = (line for line in lines if line.startswith("epoch 2: unfroze the top stage (stage3, stage4, conv5, "))
    assert first.endswith(" parameters)")
    assert [line for line in lines if line.startswith("epoch 3: unfroze the next stage (stage2, ")]
    assert lines.index(first) < next(n for n, line in enumerate(lines) if line.startswith("epoch 2/3"))
    (end,) = (line for line in lines if line.startswith("fine-tuning "))
    assert "(epoch 1) before the first stage was unfrozen" in end
    rows = list(csv.DictReader((run / "history.csv").open()))
    assert [row[UNFROZEN] for row in rows] == ["0", "1", "2"]


def test_effect__is_judged_by_a_paired_test() -> None:
    rows = [row(1, 0.5, 0), row(2, 0.4, 0), row(3, 0.3, 1), row(4, 0.2, 2)]
    before = torch.rand(100, generator=torch.Generator().manual_seed(0)) * 0.8
    noise = torch.randn(100, generator=torch.Generator().manual_seed(1))
    noise -= noise.mean()
    compared = (
        "best valid/loss 0.4000 (epoch 2) before the first stage was unfrozen, 0.2000 (epoch 4) after (paired test"
    )
    for change, verdict in ((-0.2, "helped"), (0.2, "made it worse"), (-0.005, "changed nothing beyond chance")):
        line = effect_of_finetuning(rows, before, before + change + 0.1 * noise)
        assert (line or "").startswith(f"fine-tuning {verdict}: {compared}")
    assert "p = 1)" in (effect_of_finetuning(rows, before, before) or "")


@pytest.mark.parametrize("stages", [0, 1])
def test_compare__nothing_to_effect_of_finetuning(stages: int) -> None:
    losses = torch.rand(10)
    assert effect_of_finetuning([row(1, 0.5, stages)], losses, losses) is None


def test_names__of_whole_and_partial_containers() -> None:
    layers = nn.ModuleDict({name: nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)) for name in ("a", "b")})
    assert _named(layers, ["b.0", "b.1"]) == "b"
    three = nn.ModuleDict({"features": nn.Sequential(*[nn.Linear(1, 1) for _ in range(3)]), "fc": nn.Linear(1, 1)})
    assert _named(three, ["features.1", "features.2", "fc"]) == "features.1–2, fc"


@pytest.mark.slow
def test_curves__mark_the_epochs(tmp_path: Path) -> None:
    rows = [row(1, 0.5, 0), row(2, 0.4, 1), row(3, 0.3, 2)]
    draw_curves(rows, 3, tmp_path / "tuned.png")
    draw_curves([{k: v for k, v in r.items() if k != UNFROZEN} for r in rows], 3, tmp_path / "frozen.png")
    marked, plain = (Image.open(tmp_path / name).convert("RGB") for name in ("tuned.png", "frozen.png"))
    green = (0, 158, 115)
    assert green in [colour for _, colour in marked.getcolors(1 << 24) or []]
    assert green not in [colour for _, colour in plain.getcolors(1 << 24) or []]


@pytest.mark.slow
def test_curves__look_the_same_whatever_matplotlib_was_told(tmp_path: Path) -> None:
    """Such as by a matplotlibrc: LaTeX need not be installed, and the sizes are the figure's own."""
    rows = [row(1, 0.5, 0), row(2, 0.4, 1)]
    draw_curves(rows, 2, tmp_path / "usual.png")
    with matplotlib.rc_context({"text.usetex": True, "figure.dpi": 20, "savefig.bbox": "tight", "font.size": 40}):
        draw_curves(rows, 2, tmp_path / "other.png")
        assert matplotlib.rcParams["text.usetex"]
    assert (tmp_path / "usual.png").read_bytes() == (tmp_path / "other.png").read_bytes()
