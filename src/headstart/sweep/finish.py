"""The end of a sweep: the best trial is tested, once; the leaderboard is complete, and shown."""

import json
from pathlib import Path

from omegaconf import OmegaConf

from headstart.settings import check_train
from headstart.sweep.leaderboard import BEST, LEADERBOARD, TEST, describe_leaderboard, test_figures, update_leaderboard
from headstart.sweep.plot import draw_sweep
from headstart.training.auditing import REPORT
from headstart.training.tasks import test

PLOT = "sweep.png"


def finish(folder: Path, objective: str) -> int:
    """Tests the best trial in the sweep's `folder`, unless it has been, draws and prints all.

    Returns:
        The number of trials that failed.

    Raises:
        HeadstartError: the best trial cannot be tested.
    """
    trials = update_leaderboard(folder, objective)
    failed = sum(trial.reason is not None for trial in trials)
    if failed < len(trials):
        _test(folder / trials[0].folder)
        draw_sweep(trials, objective, folder / PLOT)
        trials = update_leaderboard(folder, objective)
    print(describe_leaderboard(trials, objective))
    print(f"{len(trials)} trials, {failed} of them failed; {folder / LEADERBOARD}")
    if failed < len(trials):
        figures = "  ".join(f"{name} {value:.4f}" for name, value in test_figures(folder / BEST).items())
        print(f"best: {folder / BEST}/checkpoints/best.ckpt  {figures}")
    return failed


def _test(run: Path) -> None:
    """Scores the run of a trial on the test split, unless that was done or there is none."""
    splits = json.loads((run / REPORT).read_text(encoding="utf-8"))["pictures"]
    if test_figures(run) or not splits.get("test"):
        return
    values = OmegaConf.to_container(OmegaConf.load(run / "config.yaml"))
    assert isinstance(values, dict)
    checkpoint = run / "checkpoints" / "best.ckpt"
    changes = {"task": "test", "ckpt_path": str(checkpoint), "run_dir": str(run / TEST), "logger": {}}
    config = OmegaConf.create(values | changes)
    test(check_train(config), config)
