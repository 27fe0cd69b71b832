"""One trial of a sweep: run once, recorded however it ends, and skipped if it is already completed."""

import math
import time
import traceback
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from headstart.auditing.report import AuditReport
from headstart.cli.names import values_of_trial
from headstart.config.train import TrainSettings, check_train
from headstart.data.images import allowed_pixels
from headstart.errors import HeadstartError
from headstart.evaluation.predictions import predict_splits, write_predictions
from headstart.files import exclusively, read_json, write_text
from headstart.in_process import torch_settings_restored
from headstart.log import log, log_to_console, log_to_file
from headstart.marker import RUN, mark, remove
from headstart.report.run_record import RunRecord
from headstart.run_folder import RunFolder, SweepFolder, is_left_over
from headstart.sweeping.garbage import collect_garbage
from headstart.sweeping.leaderboard import update_leaderboard
from headstart.sweeping.shared import shared_backbone, shared_data
from headstart.sweeping.trial_record import Trial, config_sha256, read_trial, write_trial
from headstart.sweeping.validation import check_sweep
from headstart.training.blocks import builder_of_trial
from headstart.training.callbacks.best_and_last import BestOfTrial
from headstart.training.callbacks.hparams import HParams, swept
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
            completed = _completed(run, config)
            trial = completed or _run(run, config, values)
        except (HeadstartError, OmegaConfBaseException, OSError) as error:
            # Not even whether it is completed could be found out. The folder stays as it is, it may be needed again.
            completed, trial = None, Trial(run.path.name, values, _reason(error), {}, 0.0, "", "")
            write_trial(run, trial)
    update_leaderboard(SweepFolder(run.path.parent), objective)
    how = "already completed, skipped" if completed else f"{trial.seconds:.1f} s"
    log.info("#%s  %s  (%s)", hydra.job.num, _line(trial, objective), how)
    return trial.objective(objective)


def _completed(run: RunFolder, config: DictConfig) -> Trial | None:
    """The trial in `run`, if it is complete, did not fail, and had the same settings and data."""
    trial = read_trial(run)
    if trial is None or trial.reason is not None or trial.config != config_sha256(config):
        return None
    if not run.best.is_file():
        return None
    return trial if trial.data == shared_data(check_train(config)).manifest.fingerprint else None


def _run(run: RunFolder, config: DictConfig, values: dict[str, str]) -> Trial:
    _remove_left_overs(run)
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
    trial = Trial(run.path.name, values, reason, metrics, seconds, config_sha256(config), _fingerprint(run))
    write_trial(run, trial)
    return trial


def _train(run: RunFolder, settings: TrainSettings, values: dict[str, str]) -> dict[str, float]:
    """The training path up to `fit`: trials never see the test split."""
    # Several trials may run in parallel on one terminal. A progress bar that the user has added is shown.
    if not any("ProgressBar" in str(entry) for entry in settings.callbacks.values()):
        settings.trainer.setdefault("enable_progress_bar", False)
    with RunRecord(settings) as record:
        with record.stage("data"):
            data = shared_data(settings)
            audit = AuditReport(settings, data, compares=False)
        with record.stage("model"):
            backbone = shared_backbone(settings)
        best = BestOfTrial(settings.callbacks["checkpoint"].get("monitor") or "valid/loss")
        with record.stage("fit"):
            callbacks = [record, audit, HParams(swept(values)), best]
            fitted = fit(settings, data.manifest, backbone, callbacks, builder_of_trial(settings))
        with record.stage("report"):
            predictions = predict_splits(fitted.classifier, fitted.data, ("valid",))
            write_predictions(predictions, data.manifest.classes, run)
        record.metrics |= fitted.metrics()
        if math.isnan(record.metrics.get(settings.sweep.objective, math.nan)):
            raise HeadstartError(f"it has no {settings.sweep.objective} to be compared by")
    return record.metrics


def _remove_left_overs(run: RunFolder) -> None:
    """Removes what an earlier attempt left."""
    for path in [path for path in run.path.iterdir() if is_left_over(path.name)]:
        remove(path)


def _fingerprint(run: RunFolder) -> str:
    """Of the data of a trial; "" if it ended before they were known."""
    try:
        return str(read_json(run.record)["data_fingerprint"])
    except OSError:
        return ""


def _reason(error: Exception) -> str:
    """One line."""
    if isinstance(error, HeadstartError):
        return str(error)
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in first:
        return f"out of memory: {first}"
    return f"{type(error).__name__}: {first}"


def _line(trial: Trial, objective: str) -> str:
    """ "model.lr=0.01  valid/loss 0.0712"."""
    result = f"{objective} {trial.objective(objective):.4f}" if trial.reason is None else f"failed: {trial.reason}"
    return f"{trial.folder}  {result}"
