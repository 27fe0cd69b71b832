"""The program that bundles a backbone."""

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL, Script, draw_classes

from headstart.backbones.provider import BUNDLED_FOLDER
from headstart.files import sha256_of
from headstart.model.checkpoint import read_checkpoint
from headstart.model.classifier import NETWORK

SCRIPT = ROOT / "scripts" / "bundle_backbone.py"


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


def test_bundle__contains_what_the_run_has_trained(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "best.ckpt"
    path = runpy.run_path(str(SCRIPT))["bundle"](checkpoint, tmp_path / "new")
    assert path.name == "shufflenet_v2_x0_5.pth"
    trained = {k.removeprefix(NETWORK): v for k, v in read_checkpoint(checkpoint)["state_dict"].items() if NETWORK in k}
    found = torch.load(path, weights_only=True)
    assert {name for name in trained if not name.endswith("num_batches_tracked")} == set(found)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.float(), trained[name], rtol=1e-3, atol=1e-6)
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["sha256"] == sha256_of(path)
    assert record["metrics"] == json.loads((run / "metrics.json").read_text())
    assert record["preprocessing"]["image_size"] == 32
    assert record["command"].startswith("python ")
    assert "finetune=full" in record["command"]


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs the script with arguments in this process."""

    def run(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["bundle_backbone.py", *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")

    return run


def test_bundle__of_a_frozen_backbone_is_rejected(trained: Path, program: Callable[..., None]) -> None:
    before = sorted(BUNDLED_FOLDER.iterdir())
    with pytest.raises(SystemExit, match=r"error: .* is not of a run with model\.weights=null finetune=full"):
        program(str(trained / "checkpoints" / "best.ckpt"))
    assert sorted(BUNDLED_FOLDER.iterdir()) == before


def test_bundle__without_a_checkpoint_says_how_to_call_it(program: Callable[..., None]) -> None:
    with pytest.raises(SystemExit, match=r"python scripts/bundle_backbone\.py RUN/checkpoints/best\.ckpt"):
        program()
