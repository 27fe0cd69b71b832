"""The end of a sweep: the best trial is tested, once; the leaderboard is complete, and shown."""

import json
import sys
from pathlib import Path

from omegaconf import OmegaConf

from headstart.errors import HeadstartError
from headstart.settings import check_train
from headstart.sweep.leaderboard import BEST, LEADERBOARD, TEST, describe_leaderboard, test_figures, update_leaderboard
from headstart.sweep.plot import draw_sweep
from headstart.training.auditing import REPORT
from headstart.training.tasks import test

PLOT = "sweep.png"


def finish(folder: Path, objective: str, *, is_whole: bool) -> bool:
    """Draws and prints what there is of the sweep in `folder`; if it `is_whole`, tests the best trial, unless that was.

    Returns:
        Whether no trial failed, and the best one could be tested.

    Raises:
        HeadstartError: there is no trial.
    """
    trials = update_leaderboard(folder, objective)
    if not trials:
        if not is_whole:
            return False
        raise HeadstartError("no trial has come about: is there anything to sweep over?")
    failed = sum(trial.reason is not None for trial in trials)
    is_well = failed == 0
    if is_whole and failed < len(trials):
        is_well &= _test(folder / trials[0].folder)
        trials = update_leaderboard(folder, objective)
    draw_sweep(trials, objective, folder / PLOT)
    print(describe_leaderboard(trials, objective))
    print(f"{len(trials)} trials, {failed} of them failed; {folder / LEADERBOARD}")
    if failed < len(trials):
        figures = "  ".join(f"{name} {value:.4f}" for name, value in test_figures(folder / trials[0].folder).items())
        print(f"best: {folder / BEST}/checkpoints/best.ckpt  {figures}".rstrip())
    return is_well


def _test(run: Path) -> bool:
    """Scores the run of a trial on the test split, unless that was done or there is none. Returns whether it could."""
    splits = json.loads((run / REPORT).read_text(encoding="utf-8"))["pictures"]
    if test_figures(run) or not splits.get("test"):
        return True
    values = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(values, dict)
    checkpoint = run / "checkpoints" / "best.ckpt"
    changes = {"task": "test", "ckpt_path": str(checkpoint), "run_dir": str(run / TEST), "logger": {}}
    config = OmegaConf.create(values | changes)
    try:
        test(check_train(config), config)
    except (HeadstartError, OSError) as error:
        print(f"error: the best trial cannot be tested: {error}", file=sys.stderr)
        return False
    return True
