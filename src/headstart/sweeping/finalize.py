"""The end of a sweep: the best trial is tested, once, and gets a report; the best ones become an ensemble."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from headstart.config.literal import literals
from headstart.config.record import read_record
from headstart.config.train import TrainSettings, check_train
from headstart.errors import HeadstartError
from headstart.files import read_json
from headstart.log import log
from headstart.run_folder import RunFolder, SweepFolder
from headstart.sweeping.ensemble import update_ensemble
from headstart.sweeping.ensemble_score import EnsembleScore
from headstart.sweeping.folds import write_out_of_fold
from headstart.sweeping.leaderboard import describe_leaderboard, only_test, test_metrics, update_leaderboard
from headstart.sweeping.plot import draw_sweep
from headstart.sweeping.scales import Scale
from headstart.sweeping.significance import find_tie
from headstart.sweeping.trial_record import Trial
from headstart.tasks import report, test


def finalize(
    sweep: SweepFolder, objective: str, scales: Mapping[str, Scale], *, is_complete: bool, ensemble: int = 0
) -> bool:
    """Plots and shows the trials so far; if the sweep `is_complete`, tests the best one, unless that was done before.

    With an `ensemble` of two or more, so many of the best trials are averaged and tested too.

    Returns:
        Whether no trial failed, and the best one and the ensemble could be tested.

    Raises:
        HeadstartError: there are no trials.
    """
    trials = update_leaderboard(sweep, objective)
    if not trials:
        if not is_complete:
            return False
        raise HeadstartError("the sweep ran no trials: is there anything to sweep over?")
    tie = score = None
    failed = sum(trial.reason is not None for trial in trials)
    succeeded = failed == 0
    if is_complete and failed < len(trials):
        succeeded &= _test(sweep.trial(trials[0].folder))
        _report(sweep.trial(trials[0].folder))
        tie = find_tie(sweep, trials)
        if ensemble:
            score, could_be_made = _average(sweep, trials, ensemble)
            succeeded &= could_be_made
        trials = update_leaderboard(sweep, objective, tie, score)
    draw_sweep(trials, objective, sweep.plot, scales)
    has_folds = write_out_of_fold(sweep, trials)
    log.info("%s", describe_leaderboard(trials, objective, tie, score))
    log.info("%d trials, %d of them failed; %s", len(trials), failed, sweep.leaderboard)
    if has_folds:
        log.info("out-of-fold predictions: %s", sweep.out_of_fold)
    if failed < len(trials):
        log.info("%s", _line("best", RunFolder(sweep.best).best, test_metrics(sweep.trial(trials[0].folder))))
    if score is not None:
        log.info("%s", _line("ensemble", sweep.ensemble, only_test(score.metrics)))
    return succeeded


def _line(name: str, path: Path, metrics: Mapping[str, float]) -> str:
    """ "best: sweep/best/checkpoints/best.ckpt  test/acc 0.9610"."""
    return "  ".join([f"{name}: {path}", *(f"{metric} {value:.4f}" for metric, value in metrics.items())])


def _test(run: RunFolder) -> bool:
    """Scores a trial on the test split, unless that was done or there is none. Returns whether it could be."""
    splits = read_json(run.audit)["images"]
    if test_metrics(run) or not splits.get("test"):
        return True
    try:
        test(_settings(run, task="test", run_dir=str(run.test), logger={}))
    except (HeadstartError, OSError) as error:
        log.error("the best trial could not be tested: %s", error)
        return False
    return True


def _report(run: RunFolder) -> None:
    """Writes the report of a trial, unless that was done or is not wanted."""
    settings = _settings(run, task="report")
    if settings.report == "full" and not run.page.exists():
        try:
            report(settings)
        except (HeadstartError, OSError) as error:
            log.error("the report of the best trial could not be written: %s", error)


def _average(sweep: SweepFolder, trials: list[Trial], size: int) -> tuple[EnsembleScore | None, bool]:
    """The score of the ensemble of the best trials, if they can be averaged, and False if that failed."""
    try:
        return update_ensemble(sweep, trials, size, _settings(sweep.trial(trials[0].folder))), True
    except (HeadstartError, OSError) as error:
        log.error("there is no ensemble: %s", error)
        return None, False


def _settings(run: RunFolder, **changes: Any) -> TrainSettings:
    """Those of a trial, to evaluate its best checkpoint."""
    values: Any = OmegaConf.to_container(read_record(run))
    return check_train(OmegaConf.create(values | literals({"ckpt_path": str(run.best), **changes})))
