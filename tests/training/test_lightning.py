"""Any argument of Lightning's Trainer, any callback and any logger works, or is rejected in one sentence."""

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, Script, settings_of
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import LearningRateMonitor

from headstart.config.lightning import ARGUMENTS, RESERVED, VALUES
from headstart.errors import HeadstartError
from headstart.pipeline import check_without_data
from headstart.training.callbacks.history import Clock
from headstart.training.trainer import build_trainer, lightning_errors

# Each runs whole trainings.
pytestmark = pytest.mark.slow

TINY = (*SMALL, "data.split.train=6", "data.split.valid=3", "trainer.max_epochs=2")
# Plausible values of each argument.
WORKS = {
    "accelerator": ["cpu", "auto"],
    "strategy": ["auto"],
    "devices": ["1"],
    "num_nodes": ["1"],
    "precision": ["32", "bf16-mixed"],
    "fast_dev_run": ["2"],
    "max_epochs": ["1"],
    "min_epochs": ["1"],
    "max_steps": ["4"],
    "min_steps": ["2"],
    "max_time": ["00:00:10:00", "{minutes:10}"],
    "limit_train_batches": ["1", "0.5"],
    "limit_val_batches": ["1", "0.5"],
    "overfit_batches": ["1", "0.5"],
    "val_check_interval": ["1", "0.5"],
    "check_val_every_n_epoch": ["2"],
    "num_sanity_val_steps": ["2", "-1"],
    "log_every_n_steps": ["1"],
    "enable_checkpointing": ["true"],
    "enable_progress_bar": ["true", "false"],
    "enable_model_summary": ["true"],
    "accumulate_grad_batches": ["2"],
    "gradient_clip_val": ["1"],
    "gradient_clip_algorithm": ["norm"],
    "deterministic": ["true", "warn"],
    "benchmark": ["true"],
    "inference_mode": ["false"],
    "profiler": ["simple", "advanced", "pytorch"],
    "detect_anomaly": ["true"],
    "barebones": ["false"],
    "sync_batchnorm": ["true"],
    "enable_autolog_hparams": ["false"],
}
# With which others change nothing, or leave nothing to be changed.
ALONE = ("fast_dev_run", "overfit_batches", "max_epochs", "max_steps")
REJECTED = {
    "strategy": ["ddp_spawn", "fsdp", "nonsense"],
    "num_nodes": ["2", "0"],
    "max_epochs": ["0", "1.5", "many"],
    "max_steps": ["0", "many"],
    "min_epochs": ["many"],
    "limit_train_batches": ["0"],
    "limit_val_batches": ["0"],
    "limit_predict_batches": ["1"],
    "check_val_every_n_epoch": ["3"],
    "val_check_interval": ["00:00:00:01"],
    "accumulate_grad_batches": ["0"],
    "gradient_clip_val": ["much"],
    "enable_checkpointing": ["false"],
    "benchmark": ["maybe"],
    "barebones": ["true"],
    "model_registry": ["models"],
    "inference_mode": ["maybe"],
    "num_sanity_val_steps": ["-2"],
}
LATE = {
    "limit_val_batches": ["1.5"],
    "overfit_batches": ["-1"],
    "accelerator": ["gpu", "tpu", "warp"],
    "max_time": ["soon"],
    "devices": ["0"],
    "gradient_clip_algorithm": ["wrong"],
    "profiler": ["nonsense"],
}


def pairs(table: dict[str, list[str]]) -> list[str]:
    return [f"trainer.{key}={value}" for key, values in table.items() for value in values]


def runs() -> list[list[str]]:
    """The values of each argument, in as few runs as it has values."""
    together = {key: values for key, values in WORKS.items() if key not in ALONE}
    count = max(map(len, together.values()))
    rows = [pairs({key: values[n : n + 1] for key, values in together.items()}) for n in range(count)]
    return [*rows, *([override] for override in pairs({key: WORKS[key] for key in ALONE}))]


def test_table__has_every_argument() -> None:
    arguments = set(inspect.signature(Trainer).parameters) - RESERVED
    assert arguments - set(WORKS) - set(REJECTED) == set()
    assert (set(VALUES) | set(ARGUMENTS)) - arguments == set()


@pytest.mark.parametrize("overrides", runs(), ids=lambda overrides: overrides[0])
def test_argument__works(script: Script, flat: Path, tmp_path: Path, overrides: list[str]) -> None:
    run = tmp_path / "run"
    result = script("train.py", f"data.root={flat}", *TINY, f"hydra.run.dir={run}", *overrides)
    assert result.status == 0, result.err
    assert "Traceback" not in result.err
    assert (run / "metrics.json").exists()


@pytest.mark.parametrize("override", pairs(REJECTED))
def test_argument__is_rejected_before_anything_is_imported(override: str) -> None:
    key = override.partition("=")[0]
    with pytest.raises(HeadstartError, match=key) as error:
        settings_of("data.root=x", *TINY, override)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("override", pairs(LATE))
def test_argument__rejected_by_lightning_before_data_are_read(script: Script, override: str) -> None:
    if "gpu" in override and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = script("train.py", "data.root=nosuch", *TINY, override)
    assert result.status == 1
    assert result.err.count("\n") == 1
    assert "trainer" in result.err
    assert "nosuch" not in result.err
    assert not list(Path.cwd().iterdir())


def test_gpu__without_one_says_what_to_do(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = script("train.py", "data=folder", "data.root=x", "trainer=gpu", "model.weights=null")
    assert result.status == 1
    assert "set trainer=cpu, or trainer.accelerator=auto" in result.err


CALLBACKS = {
    "GradientAccumulationScheduler": ["+callbacks.x.scheduling={1:2}"],
    "Timer": ["+callbacks.x.duration={minutes:10}"],
    "ModelCheckpoint": ["+callbacks.x.monitor=valid/acc", "+callbacks.x.save_last=true"],
    "RichProgressBar": [],
    "TQDMProgressBar": [],
    "LearningRateMonitor": ["+callbacks.x.logging_interval=step", "trainer.log_every_n_steps=1"],
    "ModelSummary": [],
    "RichModelSummary": [],
    "WeightAveraging": [],
    "EarlyStopping": ["+callbacks.x.monitor=valid/acc"],
    "SpikeDetection": [],
}
UNUSABLE = {
    "LearningRateFinder": "model.lr",
    "BatchSizeFinder": "data.batch_size",
    "BackboneFinetuning": "finetune=gradual",
    "StochasticWeightAveraging": "callbacks=ema",
    "EMAWeightAveraging": "callbacks=ema",
    "BasePredictionWriter": "predict.py",
    "ModelPruning": "weights",
    "LambdaCallback": "functions",
}


# Those of which there can be one, or which change the weights, have a run of their own.
SINGLE = ("RichProgressBar", "TQDMProgressBar", "WeightAveraging")


@pytest.mark.parametrize("names", [[name for name in CALLBACKS if name not in SINGLE], *([name] for name in SINGLE)])
def test_callback__works(script: Script, flat: Path, tmp_path: Path, names: list[str]) -> None:
    run, overrides = tmp_path / "run", list[str]()
    for name in names:
        options = [f"+callbacks.x._target_=pytorch_lightning.callbacks.{name}", *CALLBACKS[name]]
        overrides += [option.replace("callbacks.x.", f"callbacks.{name}.") for option in options]
    result = script("train.py", f"data.root={flat}", *TINY, f"hydra.run.dir={run}", *overrides)
    assert result.status == 0, result.err
    assert (run / "metrics.json").exists()
    if "ModelCheckpoint" in names:
        assert (run / "checkpoints" / "ModelCheckpoint" / "last.ckpt").exists()
        assert {path.name for path in (run / "checkpoints").glob("*.ckpt")} == {"best.ckpt", "last.ckpt"}


@pytest.mark.parametrize("name", UNUSABLE)
def test_callback__that_cannot_be_used_says_what_to_do(name: str) -> None:
    with pytest.raises(HeadstartError, match=f"callbacks.x: Lightning's {name} cannot be used") as error:
        settings_of("data.root=x", *TINY, f"+callbacks.x._target_=pytorch_lightning.callbacks.{name}")
    assert UNUSABLE[name] in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["+callbacks.x._target_=pytorch_lightning.callbacks.NoSuch"], "callbacks.x"),
        (["+callbacks.x._target_=pytorch_lightning.callbacks.Timer", "+callbacks.x.duration=soon"], "callbacks.x"),
        (["+callbacks.x._target_=pytorch_lightning.callbacks.GradientAccumulationScheduler"], "callbacks.x"),
        (["+callbacks.x._target_=pytorch_lightning.loggers.CSVLogger", "+callbacks.x.save_dir=x"], "callbacks.x"),
        (["+logger.x._target_=pytorch_lightning.callbacks.Timer"], "logger.x"),
        (["+logger.x._target_=pytorch_lightning.loggers.CSVLogger"], "logger.x"),
        (["+logger.x._target_=pytorch_lightning.loggers.LitLogger"], "logger.x"),
    ],
)
def test_entry__that_cannot_be_created_is_one_sentence(script: Script, overrides: list[str], key: str) -> None:
    result = script("train.py", "data.root=nosuch", *TINY, *overrides)
    assert result.status == 1
    assert result.err.startswith(f"error: {key} is invalid: ")
    assert result.err.count("\n") == 1
    assert not list(Path.cwd().iterdir())


def test_csv_logger__gets_epochs_and_hyperparameters(script: Script, flat: Path, tmp_path: Path) -> None:
    logger = ("+logger.x._target_=pytorch_lightning.loggers.CSVLogger", f"+logger.x.save_dir={tmp_path / 'csv'}")
    result = script("train.py", f"data.root={flat}", *TINY, *logger)
    assert result.status == 0, result.err
    (hparams,) = (tmp_path / "csv").rglob("hparams.yaml")
    assert "model.lr: 0.001" in hparams.read_text()


def function_of_lightning() -> Any:
    """A function that fails, as if it were Lightning's."""
    names: dict[str, Any] = {"__name__": "pytorch_lightning.somewhere"}
    exec("def of_lightning(self, *arguments):\n    raise KeyError('nosuch')", names)
    return names["of_lightning"]


def test_error_in_a_callback__names_it_and_keeps_the_traceback(
    script: Script, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr(LearningRateMonitor, "on_train_start", function_of_lightning())
    callback = "+callbacks.x._target_=pytorch_lightning.callbacks.LearningRateMonitor"
    result = script("train.py", f"data.root={flat}", *TINY, f"hydra.run.dir={run}", callback)
    assert result.status == 1, result.out
    assert (
        result.err
        == f"error: callbacks.x was rejected by Lightning: KeyError: 'nosuch' (traceback: {run}/traceback.txt)\n"
    )
    assert "in of_lightning" in (run / "traceback.txt").read_text()


class Broken(Callback):
    def setup(self, *arguments: Any, **more: Any) -> None:
        raise KeyError("nosuch")


def test_lightning_errors__of_our_own_code_pass(tmp_path: Path) -> None:
    settings = settings_of("data.root=x", *TINY)
    with pytest.raises(KeyError), lightning_errors(settings):
        Broken().setup()
    with pytest.raises(HeadstartError, match="as it is"), lightning_errors(settings):
        raise HeadstartError("as it is")


def test_lightning_errors__of_lightning_are_a_sentence(tmp_path: Path) -> None:
    settings = replace(settings_of("data.root=x", *TINY), run_dir=str(tmp_path))
    with pytest.raises(HeadstartError, match="the trainer settings were rejected by "), lightning_errors(settings):
        Trainer(accelerator="warp")
    assert not (tmp_path / "traceback.txt").exists(), "the sentence says everything"
    with pytest.raises(HeadstartError, match=r"KeyError: 'nosuch' \(traceback: "), lightning_errors(settings):
        function_of_lightning()(None)
    assert "Traceback" in (tmp_path / "traceback.txt").read_text()


def test_bug_of_headstart__shows_its_traceback(script: Script, flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(clock: Clock, *arguments: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Clock, "on_train_epoch_start", broken)
    with pytest.raises(RuntimeError, match="a bug"):
        script("train.py", f"data.root={flat}", *TINY)


def test_progress_bar__configured_is_shown(tmp_path: Path) -> None:
    settings = settings_of(*TINY, "data.root=x", "+callbacks.x._target_=pytorch_lightning.callbacks.TQDMProgressBar")
    assert build_trainer(settings).progress_bar_callback is not None
    assert json.dumps(settings.trainer)


def test_slurm_allocation__one_process_that_starts_others(monkeypatch: pytest.MonkeyPatch) -> None:
    # In the batch script of a job, without srun, Lightning by itself rejects devices=2.
    for name, value in {"SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NAME": "train"}.items():
        monkeypatch.setenv(name, value)
    two = ("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    _, processes = check_without_data(settings_of(*SMALL, "data.root=x", *two))
    assert processes == 2
