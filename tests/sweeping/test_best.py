"""SWEEP/best and leaderboard.json."""

import csv
import json
from pathlib import Path

from tensorboard.backend.event_processing.io_wrapper import GetLogdirSubdirectories  # type: ignore[import-untyped]

from headstart.run_folder import SweepFolder, checkpoint_in
from headstart.sweeping.leaderboard import update_leaderboard
from headstart.sweeping.trial_record import Trial, write_trial


def written(root: Path, folder: str, loss: float) -> SweepFolder:
    """A sweep with one more trial, which has TensorBoard's events and a checkpoint."""
    sweep = SweepFolder(root)
    run = sweep.trial(folder)
    run.best.parent.mkdir(parents=True)
    run.best.write_text(folder)
    (run.path / "events.out.tfevents.1").touch()
    (run.path / ".hydra").mkdir()
    write_trial(run, Trial(folder, {"lr": folder}, None, {"valid/loss": loss}, 1.0, "config", "data"))
    return sweep


def test_best__has_the_files_of_the_best_trial_but_no_events(tmp_path: Path) -> None:
    update_leaderboard(written(tmp_path, "a", 0.3), "valid/loss")
    update_leaderboard(written(tmp_path, "b", 0.2), "valid/loss")
    assert not (tmp_path / "best").is_symlink()
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"checkpoints", "trial.json", ".hydra"}
    assert (tmp_path / "best" / "checkpoints" / "best.ckpt").read_text() == "b"
    assert checkpoint_in(tmp_path, "best") == tmp_path / "best" / "checkpoints" / "best.ckpt"
    # TensorBoard lists folders that hold events.
    assert {Path(place).name for place in GetLogdirSubdirectories(str(tmp_path))} == {"a", "b"}


def test_best__never_replaces_files_of_somebody_else(tmp_path: Path) -> None:
    sweep = written(tmp_path, "a", 0.3)
    (sweep.best / "checkpoints").mkdir(parents=True)
    (sweep.best / "checkpoints" / "mine.txt").write_text("mine")
    update_leaderboard(sweep, "valid/loss")
    assert (sweep.best / "checkpoints" / "mine.txt").read_text() == "mine"


def test_leaderboard__is_plain_csv_with_a_summary_beside_it(tmp_path: Path) -> None:
    sweep = written(tmp_path, "a", 0.3)
    (sweep.trial("a").test).mkdir()
    (sweep.trial("a").test / "metrics.json").write_text('{"test/acc": 0.5, "seconds": 1}')
    update_leaderboard(sweep, "valid/loss")
    (row,) = csv.DictReader((tmp_path / "leaderboard.csv").open())
    assert row["folder"] == "a"
    assert json.loads((tmp_path / "leaderboard.json").read_text()) == {
        "trials": 1, "failed": 0, "objective": "valid/loss", "order": "lowest first", "best": "a",
        "test": {"test/acc": 0.5}, "tie": None, "over_seeds": [], "over_folds": [], "ensemble": None,
    }  # fmt: skip
