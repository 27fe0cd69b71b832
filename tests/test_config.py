"""What the command line refuses, and what it says: as a user would type it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, Script


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.lrr=1", "unknown key 'model.lrr': did you mean 'model.lr'?"),
        ("+model.lrr=1", "unknown key 'model.lrr': did you mean 'model.lr'?"),
        ("++model.lrr=1", "unknown key 'model.lrr': did you mean 'model.lr'?"),
        ("lr=1", "unknown key 'lr': did you mean 'model.lr'?"),
        ("+sed=1", "unknown key 'sed': did you mean 'seed'?"),
        ("data.batchsize=1", "unknown key 'data.batchsize': did you mean 'data.batch_size'?"),
        ("trainer.max_epoch=1", "unknown key 'trainer.max_epoch': did you mean 'trainer.max_epochs'?"),
        ("+trainer.max_epoch=1", "unknown key 'trainer.max_epoch': did you mean 'trainer.max_epochs'?"),
        ("callbacks.early_stopping.patients=1", "did you mean 'callbacks.early_stopping.patience'?"),
        ("callbacks.erly_stopping=null", "did you mean 'callbacks.early_stopping'?"),
        ("+callbacks.erly_stopping=null", "did you mean 'callbacks.early_stopping'?"),
        ("logger.tensorbord=null", "did you mean 'logger.tensorboard'?"),
        ("logger.tensorbord.name=x", "unknown key 'logger.tensorbord': did you mean 'logger.tensorboard'?"),
        ("trainer.logger=false", "trainer.logger is set by the project itself"),
        ("model.lr=-1", "model.lr=-1.0 cannot work: it must be a number above 0"),
        ("model.lr=abc", "model.lr cannot work: Value 'abc'"),
        ("data.batch_size=0", "data.batch_size=0 cannot work"),
        ("data.batch_size=1.5", "data.batch_size cannot work"),
        ("data.num_workers=many", "data.num_workers=many cannot work"),
        ("data.image_size=300", "data.image_size=300 cannot be cut"),
        ("model.dropout=1.5", "model.dropout=1.5 cannot work"),
        ("model.hidden_dim=0", "model.hidden_dim=0 cannot work"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0 cannot work"),
        ("trainer.max_epochs=2.5", "trainer.max_epochs=2.5 cannot work"),
        ("seed=-1", "seed=-1 cannot work"),
        ("task=tran", "task=tran cannot work: it must be one of train, test"),
        ("task=test", "task=test needs ckpt_path="),
        ("data.split.train=0", "data.split.train=0 cannot work"),
        ("data.split.train=1.0", "data.split.train=1.0 cannot work"),
        ("data.split.train=0.7", "give two counts or two fractions"),
        ("data.split.train=0.7 data.split.valid=0.4", "more than the whole"),
        ("trainer.precision=bf16-true", "trainer.precision=bf16-true cannot work"),
        ("callbacks.early_stopping.monitor=val_loss", "callbacks.early_stopping.monitor=val_loss cannot work"),
        ("features.views=0", "features.views=0 cannot work"),
        ("features.precision=16", "features.precision=16 cannot work: it must be one of auto, 32, bf16"),
        ("features.compile=maybe", "features.compile=maybe cannot work"),
        ("data=foldr", "Could not find 'data/foldr'"),
        ("model=5", "must be a string"),
        ("model.lr=[1", "model.lr=[1"),
        ("model.lr=1,2", "To sweep over it, add --multirun"),
    ],
)
def test_train__refuses(script: Script, override: str, sentence: str) -> None:
    result = script("train.py", *override.split())
    assert result.status == 1
    assert sentence in result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert not list(Path.cwd().iterdir()), "nothing may be left behind"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ([], "ckpt_path is missing"),
        (["ckpt_path=a.ckpt"], "source is missing"),
        (["ckpt_path=a", "source=b", "topk=0"], "topk=0 cannot work"),
        (["ckpt_path=a", "source=b", "top=3"], "unknown key 'top': did you mean 'topk'?"),
        (["ckpt_path=a", "source=b", "annotate=true"], "annotate=true needs a folder"),
        (["ckpt_path=a", "source=b", "accelerator=tpu"], "accelerator=tpu cannot work"),
    ],
)
def test_predict__refuses(script: Script, overrides: list[str], sentence: str) -> None:
    result = script("predict.py", *overrides)
    assert result.status == 1
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert not list(Path.cwd().iterdir())


def test_traceback__is_there_for_those_who_ask_for_it(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra.errors import ConfigCompositionException

    monkeypatch.setattr("os.environ", os.environ | {"HYDRA_FULL_ERROR": "1"})
    monkeypatch.setattr(sys, "argv", [str(ROOT / "train.py"), "model.lrr=1"])
    import runpy

    with pytest.raises(ConfigCompositionException):
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"], ["model.lrr=1"], ["trainer.max_epoch=1"]])
def test_heavy_imports__are_late(arguments: list[str], tmp_path: Path) -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "train.py"), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    seconds = time.perf_counter() - start
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "hydra" in imported
    assert not imported & {"torch", "torchvision", "pytorch_lightning", "matplotlib", "numpy"}
    assert seconds < 5, "about one second, on a machine that may be busy"
