"""One trial of a sweep: run once, recorded however it ends, and recognised when it comes again."""

import gc
import json
import math
import re
import shutil
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from headstart.data.ready import examine, make_ready
from headstart.errors import HeadstartError
from headstart.files import RUN_RECORD, exclusively, write_text
from headstart.names import values_of_trial
from headstart.settings import check_train
from headstart.sweep.leaderboard import update_leaderboard
from headstart.sweep.record import Trial, config_sha256, read_trial, write_trial
from headstart.sweep.rules import check_sweep
from headstart.training.tasks import train

OUTPUT = "output.txt"  # what the trial would have printed
TRACEBACK = "traceback.txt"
# What an earlier attempt can have left in the folder; Hydra has just written its own part anew.
LEFT = re.compile(
    r"(run|trial|audit|metrics)\.json|(config|hparams)\.yaml|history\.csv|(output|traceback)\.txt|"
    r"checkpoints|report|test|events\..*"
)


def run_trial(config: DictConfig) -> float:
    """Runs the trial that Hydra has composed, or takes the figures of the one in its folder. Returns its objective.

    A trial that fails does not raise: the sweep goes on, and its objective is the worst there is.
    """
    hydra = HydraConfig.get()
    folder, objective = Path(hydra.runtime.output_dir), config.sweep.objective
    values = values_of_trial(config.sweep.over, config.sweep.fixed)
    # A sampler may choose the same again, while another process is at it.
    with exclusively(folder):
        try:
            kept = _finished(folder, config)
            trial = kept or _run(folder, config, values)
        except (HeadstartError, OmegaConfBaseException, OSError) as error:
            # It cannot even be told whether it is over. What is in the folder stays, it may be needed again.
            kept, trial = None, Trial(folder.name, values, _reason(error), {}, 0.0, "", "")
            write_trial(folder, trial)
    update_leaderboard(folder.parent, objective)
    time_taken = "there already" if kept else f"{trial.seconds:.1f} s"
    print(f"#{hydra.job.num}  {_line(trial, objective)}  ({time_taken})", flush=True)
    return trial.objective(objective)


def _finished(folder: Path, config: DictConfig) -> Trial | None:
    """The trial in `folder`, if it is whole, did not fail, and its settings and data were what they are now."""
    sha256, trial = config_sha256(config), read_trial(folder)
    if trial is None or trial.reason is not None or trial.config != sha256:
        return None
    if not (folder / "checkpoints" / "best.ckpt").is_file():
        return None
    settings = check_train(config)
    ready = make_ready(examine(settings.data, settings.seed), settings.data)
    return trial if trial.data == ready.manifest.fingerprint else None


def _run(folder: Path, config: DictConfig, values: dict[str, str]) -> Trial:
    _clear(folder)
    start, metrics, reason = time.perf_counter(), {}, None
    # Line by line, to be looked at meanwhile.
    output = (folder / OUTPUT).open("w", encoding="utf-8", errors="backslashreplace", buffering=1)
    with output, redirect_stdout(output), redirect_stderr(output):
        try:
            settings = check_train(config)
            check_sweep(config)
            metrics = train(settings, config, swept=values)
            if math.isnan(metrics.get(settings.sweep.objective, math.nan)):
                raise HeadstartError(f"it has no {settings.sweep.objective} to be compared by")
            # To resume from; of a hundred trials nobody resumes the end.
            (folder / "checkpoints" / "last.ckpt").unlink(missing_ok=True)
        except Exception as error:
            reason = _reason(error)
            if not isinstance(error, HeadstartError):
                write_text(folder / TRACEBACK, traceback.format_exc())
    # A Trainer and its model refer to each other.
    gc.collect()
    seconds = round(time.perf_counter() - start, 3)
    trial = Trial(folder.name, values, reason, metrics, seconds, config_sha256(config), _data(folder))
    write_trial(folder, trial)
    return trial


def _clear(folder: Path) -> None:
    """Removes what is left of an earlier attempt."""
    for path in [path for path in folder.iterdir() if LEFT.fullmatch(path.name)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _data(folder: Path) -> str:
    """The fingerprint of the data of the run in `folder`; "" where it came to none."""
    try:
        record: dict[str, Any] = json.loads((folder / RUN_RECORD).read_text(encoding="utf-8"))
    except OSError:
        return ""
    return str(record["data_fingerprint"])


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
    said = f"{objective} {trial.objective(objective):.4f}" if trial.reason is None else f"failed: {trial.reason}"
    return f"{trial.folder}  {said}"
