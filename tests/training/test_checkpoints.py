"""Checkpoints of runs, and runs that are resumed from them."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Script

RULE = ("data.split.train=6", "data.split.valid=3")


def train(script: Script, root: Path, run: Path, *overrides: str) -> str:
    """Returns what the run has written to stderr."""
    result = script("train.py", f"data.root={root}", *RULE, *SMALL, f"hydra.run.dir={run}", *overrides)
    assert result.status == 0, result.err
    return result.err


def metrics_of(run: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads((run / "metrics.json").read_text())
    del metrics["seconds"]
    return metrics


def head(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


def assert_same_run(first: Path, second: Path) -> None:
    assert (first / "history.csv").read_text() == (second / "history.csv").read_text()
    assert metrics_of(first) == metrics_of(second)
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = head(first / "checkpoints" / name), head(second / "checkpoints" / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)


def test_second_run__is_the_same_with_the_same_seed(script: Script, trained: Path, tmp_path: Path) -> None:
    images, folder = trained.parent / "images", f"features.dir={tmp_path / 'features'}"
    train(script, images, tmp_path / "again", folder)
    assert_same_run(trained, tmp_path / "again")
    train(script, images, tmp_path / "other", folder, "seed=1")
    assert (trained / "history.csv").read_text() != (tmp_path / "other" / "history.csv").read_text()


def test_resume__ends_like_an_uninterrupted_run_and_keeps_a_best_epoch_from_before(
    script: Script, flat: Path, tmp_path: Path
) -> None:
    # With so large a learning rate the validation loss soon gets worse.
    more = ("model.lr=0.1", "trainer.gradient_clip_val=0.5", "callbacks.early_stopping=null")
    train(script, flat, tmp_path / "whole", *more, "trainer.max_epochs=6")
    best_epoch = metrics_of(tmp_path / "whole")["best_epoch"]
    assert best_epoch < 6
    train(script, flat, tmp_path / "part", *more, f"trainer.max_epochs={best_epoch}")
    last = f"ckpt_path={tmp_path / 'part' / 'checkpoints' / 'last.ckpt'}"
    # It needs no more than the checkpoint, and may read images in other processes.
    result = script("train.py", last, "trainer.max_epochs=6", f"hydra.run.dir={tmp_path / 'alone'}")
    assert result.status == 0, result.err
    train(script, flat, tmp_path / "workers", *more, "trainer.max_epochs=6", "data.num_workers=2", last)
    for resumed in ("alone", "workers"):
        assert_same_run(tmp_path / "whole", tmp_path / resumed)


def test_resume__of_a_run_killed_after_its_last_epoch_says_that_nothing_is_trained(
    script: Script, trained: Path, tmp_path: Path
) -> None:
    last = trained / "checkpoints" / "last.ckpt"
    said = train(script, trained.parent / "images", tmp_path / "resumed", f"ckpt_path={last}", "model.lr=1e-4")
    assert_same_run(trained, tmp_path / "resumed")
    assert (
        "has completed trainer.max_epochs=3 epochs, so nothing is trained: for more, set trainer.max_epochs=6" in said
    )


def test_resume__of_a_run_killed_after_it_stopped_early_by_threshold(
    script: Script, flat: Path, tmp_path: Path
) -> None:
    stop = "callbacks.early_stopping.stopping_threshold=100"
    train(script, flat, tmp_path / "whole", stop)
    assert metrics_of(tmp_path / "whole")["epochs"] == 1
    last = tmp_path / "whole" / "checkpoints" / "last.ckpt"
    train(script, flat, tmp_path / "resumed", stop, f"ckpt_path={last}")
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_resume__with_more_patience_trains_on(script: Script, flat: Path, tmp_path: Path) -> None:
    more = ("trainer.max_epochs=8",)
    impatient = ("callbacks.early_stopping.monitor=train/acc", "callbacks.early_stopping.patience=1")
    train(script, flat, tmp_path / "part", *more, *impatient)
    epochs = metrics_of(tmp_path / "part")["epochs"]
    assert epochs < 8
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    patient = ("callbacks.early_stopping.monitor=train/acc", "callbacks.early_stopping.patience=50")
    train(script, flat, tmp_path / "resumed", *more, *patient, f"ckpt_path={last}")
    assert metrics_of(tmp_path / "resumed")["epochs"] == 8


FINETUNED = ("finetune=gradual", "finetune.epochs=[1]", "finetune.lr_factors=[0.5]", "model.arch=timm/test_resnet")
CHANGED = {
    "frozen": ("callbacks.early_stopping.patience=1", "callbacks.early_stopping.monitor=train/acc"),
    "finetuned with a schedule": (
        *FINETUNED,
        "callbacks=ema",
        "model.schedule=cosine",
        "model.warmup=0.1",
        "model.weight_decay=0.1",
    ),
}


@pytest.mark.parametrize("more", CHANGED.values(), ids=CHANGED)
def test_resume__with_a_smaller_learning_rate(
    script: Script, flat: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    train(script, flat, tmp_path / "part", *more, "model.lr=0.01", "trainer.max_epochs=3")
    anew = ("model.lr=0.001", "model.weight_decay=0.2", "trainer.max_epochs=4", f"hydra.run.dir={tmp_path / 'resumed'}")
    result = script("train.py", f"ckpt_path={tmp_path / 'part'}", *anew)
    assert result.status == 0, result.err
    assert "model.lr: 0.001 from here on (0.01 so far)" in result.out
    first, last = (
        torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("part", "resumed")
    )
    assert last["hyper_parameters"]["lr"] == 0.001
    # Even if the first run had stopped, because it did not improve.
    assert len(last["callbacks"]["History"]["rows"]) > len(first["callbacks"]["History"]["rows"])
    groups = last["optimizer_states"][0]["param_groups"]
    before = first["optimizer_states"][0]["param_groups"]
    if last["lr_schedulers"]:
        assert [g["initial_lr"] for g in groups] == pytest.approx([g["initial_lr"] / 10 for g in before])
        assert last["lr_schedulers"][0]["base_lrs"] == pytest.approx([g["initial_lr"] for g in groups])
    else:
        assert [group["lr"] for group in groups] == pytest.approx([0.001])
    assert all(group["weight_decay"] == 0.2 for group in groups)
    assert "  lr: 0.001\n" in (tmp_path / "resumed" / "config.yaml").read_text()


def test_validation__not_in_every_epoch(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "run", "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4")
    with (tmp_path / "run" / "history.csv").open() as file:
        assert [row["valid/loss"] != "" for row in csv.DictReader(file)] == [False, True, False, True]
    assert metrics_of(tmp_path / "run")["best_epoch"] in (2, 4)


def test_resume__without_the_best_checkpoint_is_an_error(script: Script, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "part")
    (tmp_path / "part" / "checkpoints" / "best.ckpt").unlink()
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    result = script("train.py", f"ckpt_path={last}", f"hydra.run.dir={tmp_path / 'resumed'}", "trainer.max_epochs=9")
    assert result.status == 1
    assert "best.ckpt is missing: it holds the best epoch so far (" in result.err
    assert not (tmp_path / "resumed").exists()


def test_resume__rejected_before_anything_is_written(script: Script, trained: Path, tmp_path: Path) -> None:
    last = trained / "checkpoints" / "last.ckpt"
    for override, sentence in (
        ("model.dropout=0.5", "model.dropout=0.5 cannot be set for a resumed run, whose checkpoint has 0.4: "),
        ("model.arch=squeezenet1_1", "model.arch=squeezenet1_1 cannot be set for a resumed run, whose checkpoint has "),
        (f"ckpt_path={tmp_path / 'none.ckpt'}", "none.ckpt does not exist"),
    ):
        result = script("train.py", f"ckpt_path={last}", f"hydra.run.dir={tmp_path / 'resumed'}", override)
        assert result.status == 1
        assert sentence in result.err
        assert result.err.count("\n") == 1
        assert not (tmp_path / "resumed").exists()


def test_resume__warns_that_the_data_have_changed(script: Script, trained: Path, flat: Path) -> None:
    (flat / "red" / "0.jpg").write_bytes((flat / "red" / "1.jpg").read_bytes())
    last = trained / "checkpoints" / "last.ckpt"
    result = script("train.py", f"ckpt_path={last}", f"data.root={flat}", "trainer.max_epochs=4", "report=none")
    assert result.status == 0
    assert "warning: the checkpoint was trained on other data: these have changed" in result.err


def test_early_stopping__by_patience(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "run", "model.lr=3", "callbacks.early_stopping.patience=1", "trainer.max_epochs=50")
    with (tmp_path / "run" / "history.csv").open() as file:
        losses = [float(row["valid/loss"]) for row in csv.DictReader(file)]
    assert len(losses) < 50
    assert losses[-1] > min(losses)


def test_nan_loss__is_an_error(script: Script, flat: Path, tmp_path: Path) -> None:
    result = script("train.py", f"data.root={flat}", *RULE, *SMALL, "model.lr=1e30", "callbacks.early_stopping=null")
    assert result.status == 1
    assert "the training loss became nan in epoch 1: try a smaller model.lr" in result.err


def test_resume__by_another_metric_forgets_the_best_epoch_so_far(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "first", "trainer.max_epochs=1")
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    # The first epoch's loss is above 1, which no accuracy exceeds.
    other = ("callbacks.checkpoint.monitor=valid/acc", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'second'}")
    result = script("train.py", f"ckpt_path={last}", *other)
    assert result.status == 0, result.err
    assert "the best epoch so far, by valid/loss, is forgotten: it now is by valid/acc" in result.err
    assert metrics_of(tmp_path / "second")["best_epoch"] == 2


def test_resume__without_checkpoints_remembers_the_best_epoch(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "first", "trainer.max_epochs=2")
    last = tmp_path / "first" / "checkpoints" / "last.ckpt"
    # From here on, every epoch is worse.
    state = torch.load(last, weights_only=True)
    state["callbacks"]["BestAndLast"]["best_score"] = 0.0
    torch.save(state, last)
    for name, more in (("kept", ()), ("none", ("callbacks.checkpoint=null",))):
        settings = ("trainer.max_epochs=3", f"hydra.run.dir={tmp_path / name}", *more)
        result = script("train.py", f"ckpt_path={last}", *settings)
        assert result.status == 0, result.err
    assert metrics_of(tmp_path / "none") == metrics_of(tmp_path / "kept")
    assert metrics_of(tmp_path / "none")["best_epoch"] < 3
