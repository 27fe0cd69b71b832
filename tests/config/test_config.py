"""Which command lines are rejected, and with which sentence, as a user would type them."""

import os
import resource
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Script
from hydra.errors import ConfigCompositionException


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.lrr=1", "unknown key 'model.lrr': did you mean 'model.lr'?"),
        ("+model.lrr=1", "unknown key 'model.lrr': did you mean 'model.lr'?"),
        ("++model.lrr=1", "unknown key 'model.lrr': did you mean 'model.lr'?"),
        ("+sed=1", "unknown key 'sed': did you mean 'seed'?"),
        ("data.batchsiz=1", "unknown key 'data.batchsiz': did you mean 'data.batch_size'?"),
        ("trainer.max_epochz=1", "unknown key 'trainer.max_epochz': did you mean 'trainer.max_epochs'?"),
        ("+trainer.max_epochz=1", "unknown key 'trainer.max_epochz': did you mean 'trainer.max_epochs'?"),
        ("callbacks.early_stopping.patients=1", "did you mean 'callbacks.early_stopping.patience'?"),
        ("callbacks.erly_stopping=null", "did you mean 'callbacks.early_stopping'?"),
        ("+callbacks.erly_stopping=null", "did you mean 'callbacks.early_stopping'?"),
        ("logger.tensorbord=null", "did you mean 'logger.tensorboard'?"),
        ("logger.tensorbord.name=x", "unknown key 'logger.tensorbord': did you mean 'logger.tensorboard'?"),
        ("trainer.logger=false", "trainer.logger is set by headstart itself and cannot be overridden"),
        ("trainer.callbacks=null", "trainer.callbacks is set by headstart itself and cannot be overridden"),
        ("model.lr=-1", "model.lr=-1.0 is invalid: it must be a positive number"),
        ("model.lr=abc", "model.lr is invalid: Value 'abc'"),
        ("data.batch_size=0", "data.batch_size=0 is invalid: it must be a positive integer"),
        ("data.batch_size=1.5", "data.batch_size is invalid: Value '1.5'"),
        ("data.num_workers=many", "data.num_workers=many is invalid: it must be auto or a non-negative integer"),
        (
            "data.resize_size=256 data.image_size=300",
            "data.image_size=300 cannot be cropped from images of data.resize_size=256",
        ),
        ("model.dropout=1.5", "model.dropout=1.5 is invalid: it must be a fraction, at least 0 and below 1"),
        ("model.hidden_dim=0", "model.hidden_dim=0 is invalid"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0 is invalid: it must be a positive integer, or -1"),
        ("trainer.max_epochs=2.5", "trainer.max_epochs=2.5 is invalid"),
        ("seed=-1", "seed=-1 is invalid: it must be a non-negative integer"),
        ("task=tran", "task=tran is invalid: it must be one of train, test, report, review, label, demo, audit"),
        ("task=test", "task=test needs ckpt_path="),
        ("data.split.train=0", "data.split.train=0 is invalid: it must be a count (60) or a fraction (0.7)"),
        ("data.split.train=1.0", "data.split.train=1.0 is invalid"),
        ("data.split.train=0.7", "give two counts or two fractions"),
        ("data.split.train=0.7 data.split.valid=0.4", "add up to more than 1"),
        ("trainer.precision=bf16-true", "trainer.precision=bf16-true is invalid"),
        ("callbacks.early_stopping.monitor=val_loss", "callbacks.early_stopping.monitor=val_loss is invalid"),
        (
            "callbacks.early_stopping.mode=max",
            "mode=max contradicts callbacks.early_stopping.monitor=valid/loss, whose mode is min",
        ),
        (
            "callbacks.checkpoint.monitor=valid/acc callbacks.checkpoint.mode=min",
            "callbacks.checkpoint.mode=min contradicts callbacks.checkpoint.monitor=valid/acc, whose mode is max",
        ),
        ("features.views=0", "features.views=0 is invalid"),
        ("features.precision=16", "features.precision=16 is invalid: it must be one of auto, 32, bf16"),
        ("features.compile=maybe", "features.compile=maybe is invalid: it must be auto, true or false"),
        ("data=foldr", "data=foldr is not available: did you mean folder?"),
        ("model=5", "model=5 is not available: choose one of clip_vit_b16, convnextv2_tiny, dinov2_base,"),
        ("model.lr=[1", "model.lr=[1"),
        ("model.lr=1,2", "To sweep over it, add --multirun"),
    ],
)
def test_train__rejected_in_one_sentence(script: Script, override: str, sentence: str) -> None:
    result = script("train.py", *override.split())
    assert result.status == 1
    assert sentence in result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert not list(Path.cwd().iterdir()), "no files may be left"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "ckpt_path is missing"),
        (["ckpt_path=a.ckpt"], "source is missing"),
        (["ckpt_path=a.ckpt", "source=b", "topk=0"], "topk=0 is invalid: it must be a positive integer"),
        (["ckpt_path=a.ckpt", "source=b", "topkk=3"], "unknown key 'topkk': did you mean 'topk'?"),
        (["ckpt_path=a.ckpt", "source=b", "annotate=true"], "annotate=true needs a folder"),
        (
            ["ckpt_path=a.ckpt", "source=b", "accelerator=tpu"],
            "accelerator=tpu is invalid: it must be one of auto, cpu, cuda, mps",
        ),
    ],
)
def test_predict__rejected_in_one_sentence(script: Script, overrides: list[str], sentence: str) -> None:
    result = script("predict.py", *overrides)
    assert result.status == 1
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert not list(Path.cwd().iterdir())


def test_traceback__with_hydra_full_error(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", os.environ | {"HYDRA_FULL_ERROR": "1"})
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), "model.lrr=1"])
    with pytest.raises(ConfigCompositionException):
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["model.lrr=1"], ["lr"], ["name=x"]])
def test_heavy_imports__not_for_help_and_config_errors(arguments: list[str], tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "train.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "hydra" in imported
    assert not imported & {"torch", "torchvision", "pytorch_lightning", "matplotlib", "numpy", "fsspec"}
    assert after.ru_utime - before.ru_utime < 3, "of the CPU, however busy it is: about one second"
