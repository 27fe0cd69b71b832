"""One trial of a sweep: run once, recorded however it ends, and skipped if it is already completed."""

import gc
import json
import math
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from headstart.auditing.report import AuditReport, preparation
from headstart.backbones.backbone import Backbone, check_backbone, load_backbone
from headstart.config.data import NEAR_DUPLICATES, LoadingSettings, PreprocessingSettings
from headstart.config.model import BackboneSettings
from headstart.config.overrides import values_of_trial
from headstart.config.train import TrainSettings, check_sweep, check_train
from headstart.data.images import allowed_pixels
from headstart.data.prepare import PreparedData
from headstart.datasets import open_data
from headstart.errors import HeadstartError
from headstart.evaluation.predictions import predict_splits, write_predictions
from headstart.features.encoder import torch_settings_restored
from headstart.files import RUN, exclusively, mark, read_json, remove, write_text
from headstart.log import log, log_to_console, log_to_file
from headstart.report.write import RunRecord
from headstart.run_folder import RunFolder, SweepFolder, is_left_over
from headstart.sweeping.leaderboard import update_leaderboard
from headstart.sweeping.trial_record import Trial, config_sha256, read_trial, write_trial
from headstart.training.callbacks.best_and_last import BestOfTrial
from headstart.training.callbacks.history import HParams, swept
from headstart.training.fit import fit


def run_trial(config: DictConfig) -> float:
    """Runs the trial that Hydra has composed, or takes the result of the one in its folder. Returns its objective.

    A trial that fails does not raise: the sweep continues, and its objective is the worst possible value.
    """
    # Other processes that run trials start no script.
    log_to_console()
    hydra = HydraConfig.get()
    run, objective = RunFolder(Path(hydra.runtime.output_dir)), config.sweep.objective
    values = values_of_trial(config.sweep.over, config.sweep.fixed)
    # A sampler may choose the same values again while another process is running them.
    with exclusively(run.path), allowed_pixels(config.data.max_pixels), torch_settings_restored():
        try:
            # Hydra's files are in it already, and the sweep's folder is claimed.
            mark(run.path, RUN)
            earlier = _completed(run, config)
            trial = earlier or _run(run, config, values)
        except (HeadstartError, OmegaConfBaseException, OSError) as error:
            # Not even whether it is completed could be found out. The folder stays as it is, it may be needed again.
            earlier, trial = None, Trial(run.path.name, values, _reason(error), {}, 0.0, "", "")
            write_trial(run, trial)
    update_leaderboard(SweepFolder(run.path.parent), objective)
    result = f"{objective} {trial.objective(objective):.4f}" if trial.reason is None else f"failed: {trial.reason}"
    how = "already completed, skipped" if earlier else f"{trial.seconds:.1f} s"
    log.info("#%s  %s  %s  (%s)", hydra.job.num, trial.folder, result, how)
    return trial.objective(objective)


def _completed(run: RunFolder, config: DictConfig) -> Trial | None:
    """Returns the trial in `run`, if it is complete, did not fail, and had the same settings and data."""
    trial = read_trial(run)
    if trial is None or trial.reason is not None or trial.config != config_sha256(config):
        return None
    if not run.best.is_file():
        return None
    return trial if trial.data == shared_data(check_train(config)).manifest.fingerprint else None


def _run(run: RunFolder, config: DictConfig, values: dict[str, str]) -> Trial:
    # What an earlier attempt left.
    for path in [path for path in run.path.iterdir() if is_left_over(path.name)]:
        remove(path)
    start, metrics, reason = time.perf_counter(), {}, None
    with log_to_file(run.output):
        try:
            settings = check_train(config)
            check_sweep(config)
            metrics = _train(run, settings, values)
        except Exception as error:
            reason = _reason(error)
            if not isinstance(error, HeadstartError):
                write_text(run.traceback, traceback.format_exc())
    # A Trainer and its model refer to each other.
    collect_garbage()
    seconds = round(time.perf_counter() - start, 3)
    # It may have ended before its data were known.
    data = str(read_json(run.record)["data_fingerprint"]) if run.record.exists() else ""
    trial = Trial(run.path.name, values, reason, metrics, seconds, config_sha256(config), data)
    write_trial(run, trial)
    return trial


def collect_garbage() -> None:
    """Frees what a trial, and Hydra, which composed it, has left in reference cycles.

    What is there after the first trial, such as a million objects of imported modules, is frozen until the end of the
    sweep: to search it would take longer than a few epochs.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()


def _train(run: RunFolder, settings: TrainSettings, values: dict[str, str]) -> dict[str, float]:
    """Goes the training path up to `fit`: trials never see the test split."""
    # Several trials may run in parallel on one terminal. A progress bar that the user has added is shown.
    if not any("ProgressBar" in str(entry) for entry in settings.callbacks.values()):
        shown = settings.trainer.get("enable_progress_bar", False)
        settings = replace(settings, trainer=settings.trainer | {"enable_progress_bar": shown})
    with RunRecord(settings) as record:
        with record.stage("data"):
            data = shared_data(settings)
            audit = AuditReport(settings, data, compares=False)
        with record.stage("model"):
            backbone = shared_backbone(settings)
        best = BestOfTrial(settings.callbacks["checkpoint"].get("monitor") or "valid/loss")
        with record.stage("fit"):
            fitted = fit(settings, data.manifest, backbone, [record, audit, HParams(swept(values)), best])
        with record.stage("report"):
            predictions = predict_splits(fitted.classifier, fitted.source, ("valid",))
            write_predictions(predictions, data.manifest.classes, run)
        record.metrics |= fitted.metrics()
        if math.isnan(record.metrics.get(settings.sweep.objective, math.nan)):
            raise HeadstartError(f"it has no {settings.sweep.objective} to be compared by")
    return record.metrics


def _reason(error: Exception) -> str:
    """Returns one line."""
    if isinstance(error, HeadstartError):
        return str(error)
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in first:
        return f"out of memory: {first}"
    return f"{type(error).__name__}: {first}"


# The data and the backbone of a sweep, prepared once per process and shared by its trials.

Value = TypeVar("Value")
# The latest value of each kind, and the key that it was made from.
_latest: dict[str, tuple[str, Any]] = {}


def forget_shared() -> None:
    """Lets a new sweep in the same process prepare its data and backbone anew."""
    _latest.clear()


def shared_data(settings: TrainSettings) -> PreparedData:
    """Returns the data that `settings` describe."""
    # They are prepared from the key itself, so that they cannot depend on a setting that it does not have.
    unused: dict[str, Any] = dict.fromkeys(_names(LoadingSettings) | _names(PreprocessingSettings))
    is_split_by_features = settings.data.group == NEAR_DUPLICATES
    own = settings.data if is_split_by_features else replace(settings.data, **unused)

    def prepare() -> PreparedData:
        # What can be checked without data comes first.
        check_backbone(settings.model, settings.data)
        return open_data(own, preparation(settings, load=partial(shared_backbone, settings)))

    features = [asdict(_part(settings.model, BackboneSettings)), asdict(settings.features), settings.seed]
    return _shared("data", [asdict(own), *(features if is_split_by_features else [])], prepare)


def shared_backbone(settings: TrainSettings) -> Backbone:
    """Returns the backbone that `settings` describe; a new one if it is going to be trained."""
    model, preprocessing = _part(settings.model, BackboneSettings), _part(settings.data, PreprocessingSettings)

    def load() -> Backbone:
        return load_backbone(model, preprocessing, seed=settings.seed)

    if settings.finetune.first_epoch is not None:
        return load()
    return _shared("backbone", [asdict(model), asdict(preprocessing), settings.seed], load)


def _shared(kind: str, key: Any, create: Callable[[], Value]) -> Value:
    """Returns the value of `key`, a plain value, created unless it was the latest of its kind."""
    text = json.dumps(key, sort_keys=True, default=str)
    if kind not in _latest or _latest[kind][0] != text:
        _latest[kind] = text, create()
    value: Value = _latest[kind][1]
    return value


def _part(settings: Any, kind: type[Value]) -> Value:
    """Returns the fields that `settings` inherited from `kind`; a value made from these depends on nothing else."""
    return kind(**{name: getattr(settings, name) for name in _names(kind)})


def _names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}
