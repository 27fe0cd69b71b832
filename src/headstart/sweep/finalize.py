"""The end of a sweep: the best trial is tested, once, and the leaderboard is shown."""

from collections.abc import Mapping

from omegaconf import OmegaConf

from headstart.config.literal import literals
from headstart.config.train import check_train
from headstart.errors import HeadstartError
from headstart.files import read_json
from headstart.log import log
from headstart.run_folder import RunFolder, SweepFolder
from headstart.sweep.leaderboard import describe_leaderboard, test_metrics, update_leaderboard
from headstart.sweep.plot import draw_sweep
from headstart.sweep.scales import Scale
from headstart.tasks import test


def finalize(sweep: SweepFolder, objective: str, scales: Mapping[str, Scale], *, is_complete: bool) -> bool:
    """Plots and shows the trials so far; if the sweep `is_complete`, tests the best one, unless that was done before.

    Returns:
        Whether no trial failed, and the best one could be tested.

    Raises:
        HeadstartError: there are no trials.
    """
    trials = update_leaderboard(sweep, objective)
    if not trials:
        if not is_complete:
            return False
        raise HeadstartError("the sweep ran no trials: is there anything to sweep over?")
    failed = sum(trial.reason is not None for trial in trials)
    succeeded = failed == 0
    if is_complete and failed < len(trials):
        succeeded &= _test(sweep.trial(trials[0].folder))
        trials = update_leaderboard(sweep, objective)
    draw_sweep(trials, objective, sweep.plot, scales)
    log.info("%s", describe_leaderboard(trials, objective))
    log.info("%d trials, %d of them failed; %s", len(trials), failed, sweep.leaderboard)
    if failed < len(trials):
        figures = test_metrics(sweep.trial(trials[0].folder))
        shown = "  ".join(f"{name} {value:.4f}" for name, value in figures.items())
        log.info("%s", f"best: {RunFolder(sweep.best).best}  {shown}".rstrip())
    return succeeded


def _test(run: RunFolder) -> bool:
    """Scores a trial on the test split, unless that was done or there is none. Returns whether it could be."""
    splits = read_json(run.audit)["images"]
    if test_metrics(run) or not splits.get("test"):
        return True
    values = OmegaConf.to_container(OmegaConf.load(run.config))
    assert isinstance(values, dict)
    changes = literals({"task": "test", "ckpt_path": str(run.best), "run_dir": str(run.test), "logger": {}})
    try:
        test(check_train(OmegaConf.create(values | changes)))
    except (HeadstartError, OSError) as error:
        log.error("the best trial could not be tested: %s", error)
        return False
    return True
