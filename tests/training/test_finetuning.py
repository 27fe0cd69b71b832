"""Runs in which the backbone is trained too."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Script
from pytorch_lightning import Trainer

from headstart.model.classifier import Classifier
from headstart.training.history import History

RULE = ("data.split.train=6", "data.split.valid=3", "model.lr=0.01")
# Two stages, from epochs 1 and 2 on.
GRADUAL = ("finetune=gradual", "finetune.epochs=[1,2]", "finetune.lr_factors=[0.5,0.1]")


def train(script: Script, root: Path, run: Path, *overrides: str) -> list[dict[str, float]]:
    arguments = (f"data.root={root}", *SMALL, *RULE, "callbacks.early_stopping=null")
    result = script("train.py", *arguments, f"hydra.run.dir={run}", *overrides)
    assert result.status == 0, result.err
    rows = list(csv.DictReader((run / "history.csv").open()))
    return [{name: float(value) for name, value in row.items()} for row in rows]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def figures(run: Path) -> dict[str, float]:
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["seconds"]
    return metrics


def assert_same_run(first: Path, second: Path) -> None:
    assert (first / "history.csv").read_text() == (second / "history.csv").read_text()
    assert figures(first) == figures(second)
    ours, theirs = (weights(run / "checkpoints" / "last.ckpt") for run in (first, second))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


MIXED = ("finetune.mixup=0.2", "finetune.cutmix=1.0", "model.label_smoothing=0.1")


# Interrupted before a stage is freed, when the first is, and after the second.
@pytest.mark.parametrize(
    ("done", "more"),
    [(1, ()), (2, ()), (3, ()), (1, ("callbacks=ema",)), (2, ("callbacks=ema",)), (2, MIXED)],
    ids=["1", "2", "3", "1-ema", "2-ema", "2-mixed"],
)
def test_gradual__resumed_like_a_whole_run(
    script: Script, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...], done: int
) -> None:
    def interrupt(callback: History, trainer: Trainer, module: Classifier) -> None:
        if trainer.current_epoch == done:
            raise KeyboardInterrupt

    options = (*GRADUAL, *more, "trainer.max_epochs=4", "callbacks.early_stopping=null")
    train(script, flat, tmp_path / "whole", *options)
    with monkeypatch.context() as patch:
        patch.setattr(History, "on_train_epoch_start", interrupt)
        part = (f"data.root={flat}", *SMALL, *RULE, *options, f"hydra.run.dir={tmp_path / 'part'}")
        assert script("train.py", *part).status != 0
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    result = script("train.py", f"ckpt_path={last}", f"hydra.run.dir={tmp_path / 'resumed'}")
    assert result.status == 0, result.err
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_full__resumed_like_a_whole_run(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "whole", "finetune=full")
    train(script, flat, tmp_path / "part", "finetune=full", "trainer.max_epochs=1")
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    result = script("train.py", f"ckpt_path={last}", "trainer.max_epochs=3", f"hydra.run.dir={tmp_path / 'resumed'}")
    assert result.status == 0, result.err
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_gradual__with_the_store_as_without(script: Script, flat: Path, tmp_path: Path) -> None:
    exact = (*GRADUAL, "features.precision=32", "trainer.max_epochs=4")
    served = train(script, flat, tmp_path / "served", *exact, f"features.dir={tmp_path / 'features'}")
    without = train(script, flat, tmp_path / "without", *exact, "features.cache=false")
    for ours, theirs in zip(served, without, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    # Only the first epoch's features were of use; validation's too.
    assert len(list((tmp_path / "features").rglob("view-*.npy"))) == 2


@pytest.mark.parametrize("finetune", [("finetune=full",), GRADUAL], ids=["full", "gradual"])
def test_last_batch__of_one_picture_is_left_out(
    script: Script, flat: Path, tmp_path: Path, finetune: tuple[str, ...]
) -> None:
    # 18 pictures. BatchNorm cannot be trained with one, nor can a schedule whose steps are counted in another way.
    options = ("data.batch_size=17", "model.schedule=cosine", *finetune)
    rows = train(script, flat, tmp_path / "run", *options)
    assert len(rows) == 3
    checkpoint = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert checkpoint["lr_schedulers"][0]["_last_lr"][0] == pytest.approx(0, abs=1e-9)


def test_early_stopping__waits_until_the_last_stage_is_freed(script: Script, flat: Path, tmp_path: Path) -> None:
    # A rate so small that nothing improves measurably.
    still = ("callbacks.early_stopping.min_delta=1", "callbacks.early_stopping.patience=2", "trainer.max_epochs=9")
    arguments = (f"data.root={flat}", *SMALL, *RULE, *GRADUAL, *still, "finetune.epochs=[1,4]")
    result = script("train.py", *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert result.status == 0, result.err
    # Freed from epoch 4 on; 4 and 5 without improvement are the end.
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 1 + 6


def test_max_epochs__before_anything_is_freed_is_said(script: Script, flat: Path, tmp_path: Path) -> None:
    arguments = (f"data.root={flat}", *SMALL, *RULE, *GRADUAL, "trainer.max_epochs=2")
    result = script("train.py", *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    assert result.status == 0
    assert "warning: trainer.max_epochs=2 ends before all stages are trained" in result.err


def test_gradual__checkpoints_hold_what_was_trained(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "run", *GRADUAL, "trainer.max_epochs=3")
    train(script, flat, tmp_path / "frozen", "trainer.max_epochs=1")
    for name in ("last", "best"):
        state = weights(tmp_path / "run" / "checkpoints" / f"{name}.ckpt")
        held = {key.split(".")[3] for key in state if key.startswith("backbone.")}
        # Pictures this small leave single pixels after stage3, so that all from there on is one stage.
        assert held == {"conv5", "stage4", "stage3", "stage2"}
    assert not [key for key in weights(tmp_path / "frozen/checkpoints/last.ckpt") if key.startswith("backbone.")]


@pytest.mark.parametrize("how", [GRADUAL, ("finetune=full",)])
def test_result__tested_again_and_predicted_the_same(
    script: Script, flat: Path, tmp_path: Path, how: tuple[str, ...]
) -> None:
    store = f"features.dir={tmp_path / 'features'}"
    # The same pictures' features of the untrained backbone lie there, and are not to be taken for those of the trained.
    train(script, flat, tmp_path / "frozen", store)
    run = tmp_path / "run"
    train(script, flat, run, *how, store, "trainer.max_epochs=4")
    best = run / "checkpoints" / "best.ckpt"
    again = script("train.py", "task=test", f"ckpt_path={best}", store, f"hydra.run.dir={tmp_path / 'again'}")
    assert again.status == 0, again.err
    expected = figures(run)
    for name, value in figures(tmp_path / "again").items():
        assert value == pytest.approx(expected[name], rel=1e-2, abs=1e-3)
    out = tmp_path / "out"
    predicted = script("predict.py", f"ckpt_path={best}", f"source={flat}", f"output={out}", "features.compile=false")
    assert predicted.status == 0, predicted.err


def test_lr__each_group_its_factor_from_the_first_step_on(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "run", *GRADUAL, "model.schedule=cosine", "trainer.max_epochs=3")
    state = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)
    groups = state["optimizer_states"][0]["param_groups"]
    assert [group["initial_lr"] for group in groups] == pytest.approx([0.01, 0.005, 0.001])
    assert groups[0]["lr"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["finetune=full", "features.cache=true"],
            "features.cache=true cannot work where the backbone is trained from",
        ),
        (["finetune.mixup=0.2"], "finetune.mixup=0.2 cannot work while the backbone is frozen"),
        (["finetune=gradual", "finetune.epochs=[5]"], "give each stage that is freed its epoch and its factor"),
        (["finetune=gradual", "finetune.epochs=[5,3]"], "it must be epochs in ascending order"),
        (["finetune=gradual", "finetune.rest=2"], "finetune.rest=2 cannot work"),
        (["finetune=gradual", "trainer.devices=2"], "trainer.devices=2 cannot work with finetune"),
        (["model.schedule=linear"], "it must be one of constant, cosine, onecycle"),
        (["model.schedule=cosine", "trainer.max_epochs=-1"], "model.schedule=cosine needs an end"),
    ],
)
def test_refused(script: Script, flat: Path, overrides: list[str], sentence: str) -> None:
    result = script("train.py", f"data.root={flat}", *SMALL, *RULE, *overrides)
    assert result.status == 1
    assert result.err.startswith("error: ")
    assert sentence in result.err
    assert not list(Path.cwd().iterdir())
