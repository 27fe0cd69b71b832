"""Runs that are resumed, in this process."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Script

RULE = ("data.split.train=6", "data.split.valid=3")


def train(script: Script, root: Path, run: Path, *overrides: str) -> None:
    result = script("train.py", f"data.root={root}", *RULE, *SMALL, f"hydra.run.dir={run}", *overrides)
    assert result.status == 0, result.err


def figures(run: Path) -> dict[str, float]:
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["seconds"]
    return metrics


def head(checkpoint: Path) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def assert_same_run(first: Path, second: Path) -> None:
    assert (first / "history.csv").read_text() == (second / "history.csv").read_text()
    assert figures(first) == figures(second)
    for name in ("best.ckpt", "last.ckpt"):
        ours, theirs = head(first / "checkpoints" / name), head(second / "checkpoints" / name)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)


def test_second_run__same_seed_same_run(script: Script, flat: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        train(script, flat, tmp_path / name)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    train(script, flat, tmp_path / "c", "seed=1")
    assert (tmp_path / "a" / "history.csv").read_text() != (tmp_path / "c" / "history.csv").read_text()


@pytest.mark.parametrize("workers", [0, 2])
def test_resume__ends_like_a_run_that_was_not_interrupted(
    script: Script, flat: Path, tmp_path: Path, workers: int
) -> None:
    more = ("trainer.max_epochs=5", "model.lr=0.01", f"data.num_workers={workers}")
    train(script, flat, tmp_path / "whole", *more)
    train(script, flat, tmp_path / "part", *more, "trainer.max_epochs=2")
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    train(script, flat, tmp_path / "resumed", *more, f"ckpt_path={last}")
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


@pytest.mark.parametrize("stop", [(), ("callbacks.early_stopping.stopping_threshold=100",)])
def test_resume__of_a_run_killed_after_its_last_epoch(
    script: Script, flat: Path, tmp_path: Path, stop: tuple[str, ...]
) -> None:
    train(script, flat, tmp_path / "whole", *stop)
    last = tmp_path / "whole" / "checkpoints" / "last.ckpt"
    train(script, flat, tmp_path / "resumed", *stop, f"ckpt_path={last}")
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_resume__with_more_patience_goes_on(script: Script, flat: Path, tmp_path: Path) -> None:
    more = ("trainer.max_epochs=8", "callbacks.checkpoint.monitor=train/loss", "callbacks.checkpoint.mode=max")
    impatient = ("callbacks.early_stopping.monitor=train/acc", "callbacks.early_stopping.patience=1")
    train(script, flat, tmp_path / "part", *more, *impatient)
    epochs = figures(tmp_path / "part")["epochs"]
    assert epochs < 8
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    patient = ("callbacks.early_stopping.monitor=train/acc", "callbacks.early_stopping.patience=50")
    train(script, flat, tmp_path / "resumed", *more, *patient, f"ckpt_path={last}")
    assert figures(tmp_path / "resumed")["epochs"] == 8


def test_validation__not_in_each_epoch(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "run", "trainer.check_val_every_n_epoch=2", "trainer.max_epochs=4")
    with (tmp_path / "run" / "history.csv").open() as file:
        assert [row["valid/loss"] != "" for row in csv.DictReader(file)] == [False, True, False, True]
    assert figures(tmp_path / "run")["best_epoch"] in (1, 3)


def test_resume__needs_no_more_than_the_checkpoint(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "whole", "trainer.max_epochs=4", "trainer.gradient_clip_val=0.5")
    train(script, flat, tmp_path / "part", "trainer.max_epochs=2", "trainer.gradient_clip_val=0.5")
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    result = script("train.py", f"ckpt_path={last}", "trainer.max_epochs=4", f"hydra.run.dir={tmp_path / 'resumed'}")
    assert result.status == 0, result.err
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_resume__keeps_a_best_epoch_from_before(script: Script, flat: Path, tmp_path: Path) -> None:
    # "Best" turned round: the highest training loss, which is one of the first epochs'.
    best = ("callbacks.checkpoint.monitor=train/loss", "callbacks.checkpoint.mode=max")
    more = ("model.lr=0.01", "callbacks.early_stopping=null", "trainer.max_epochs=6", *best)
    train(script, flat, tmp_path / "whole", *more)
    best_epoch = figures(tmp_path / "whole")["best_epoch"]
    assert best_epoch < 5
    train(script, flat, tmp_path / "part", *more, f"trainer.max_epochs={best_epoch + 1}")
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    train(script, flat, tmp_path / "resumed", *more, f"ckpt_path={last}")
    assert_same_run(tmp_path / "whole", tmp_path / "resumed")


def test_resume__with_the_best_checkpoint_gone(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "part")
    (tmp_path / "part" / "checkpoints" / "best.ckpt").unlink()
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    result = script("train.py", f"ckpt_path={last}", f"hydra.run.dir={tmp_path / 'resumed'}", "trainer.max_epochs=9")
    assert result.status == 1
    assert "best.ckpt is missing" in result.err


def test_resume__refused_before_anything_is_written(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "part")
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    for override, sentence in (
        ("model.lr=0.5", "its lr is 0.001, not 0.5"),
        ("model.arch=squeezenet1_1", "its backbone arch is shufflenet_v2_x0_5, not squeezenet1_1"),
        (f"ckpt_path={tmp_path / 'none.ckpt'}", "none.ckpt does not exist"),
    ):
        result = script("train.py", f"ckpt_path={last}", f"hydra.run.dir={tmp_path / 'resumed'}", override)
        assert result.status == 1
        assert sentence in result.err
        assert result.err.count("\n") == 1
        assert not (tmp_path / "resumed").exists()


def test_resume__says_that_the_data_have_changed(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "part")
    (flat / "red" / "0.jpg").write_bytes((flat / "red" / "1.jpg").read_bytes())
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    result = script("train.py", f"ckpt_path={last}", "trainer.max_epochs=4")
    assert result.status == 0
    assert "warning: these are not the data that the checkpoint was trained with" in result.err


def test_frozen__bit_identical_after_a_fit(script: Script, flat: Path, tmp_path: Path) -> None:
    from headstart.model.backbone import state_sha256
    from headstart.training import tasks

    fitted = []
    original = tasks.new_classifier

    def spy(*args):
        classifier = original(*args)
        fitted.append((classifier, state_sha256(classifier.backbone), state_sha256(classifier.head)))
        return classifier

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "new_classifier", spy)
        train(script, flat, tmp_path / "run")
    ((classifier, backbone, head_before),) = fitted
    assert state_sha256(classifier.backbone) == backbone
    assert state_sha256(classifier.head) != head_before


def test_early_stopping__and_its_threshold(script: Script, flat: Path, tmp_path: Path) -> None:
    train(script, flat, tmp_path / "a", "callbacks.early_stopping.stopping_threshold=100")
    assert figures(tmp_path / "a")["epochs"] == 1
    train(script, flat, tmp_path / "b", "model.lr=3", "callbacks.early_stopping.patience=1", "trainer.max_epochs=50")
    with (tmp_path / "b" / "history.csv").open() as file:
        losses = [float(row["valid/loss"]) for row in csv.DictReader(file)]
    assert len(losses) < 50
    assert losses[-1] > min(losses)


def test_never_a_number__is_told(script: Script, flat: Path, tmp_path: Path) -> None:
    result = script("train.py", f"data.root={flat}", *RULE, *SMALL, "model.lr=1e30", "callbacks.early_stopping=null")
    assert result.status == 1
    assert "the training loss became nan in epoch 1: try a smaller model.lr" in result.err
