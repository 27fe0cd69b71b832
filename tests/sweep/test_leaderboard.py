import csv
import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headstart.sweep.leaderboard import describe_leaderboard, ranked, update_leaderboard
from headstart.sweep.plot import draw_sweep
from headstart.sweep.record import RECORD, Trial, read_trials, write_trial


def trial(folder: str, loss: float, *, reason: str | None = None, **values: str) -> Trial:
    metrics = {"valid/loss": loss, "valid/acc": 1 - loss, "best_epoch": 2}
    return Trial(folder, values or {"lr": folder}, reason, metrics, 1.5, "config", "data")


def written(root: Path, *trials: Trial) -> Path:
    for one in trials:
        (root / one.folder).mkdir(parents=True, exist_ok=True)
        write_trial(root / one.folder, one)
    return root


def test_record__comes_back(tmp_path: Path) -> None:
    first = trial("a", 0.1 + 0.2)
    assert read_trials(written(tmp_path, first)) == [first]
    (tmp_path / "a" / RECORD).write_text('{"half": ')
    assert read_trials(tmp_path) == []


def test_ranked__failed_and_no_numbers_last() -> None:
    trials = [trial("d", 0.0, reason="no"), trial("c", math.nan), trial("b", 0.2), trial("a", 0.2), trial("e", 0.1)]
    assert [t.folder for t in ranked(trials, "valid/loss")] == ["e", "a", "b", "c", "d"]
    assert [t.folder for t in ranked(trials, "valid/acc")][:3] == ["e", "a", "b"]


def test_best__follows_the_best_trial(tmp_path: Path) -> None:
    update_leaderboard(written(tmp_path, trial("a", 0.3)), "valid/loss")
    assert (tmp_path / "best").readlink() == Path("a")
    update_leaderboard(written(tmp_path, trial("b", 0.2)), "valid/loss")
    assert (tmp_path / "best").readlink() == Path("b")
    rows = (tmp_path / "leaderboard.csv").read_text().splitlines()
    # `best` is a way to a trial, and none by itself.
    assert [row["folder"] for row in csv.DictReader(rows[2:])] == ["b", "a"]
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.glob(".*"))


def test_best__of_failed_trials_is_none(tmp_path: Path) -> None:
    update_leaderboard(written(tmp_path, trial("a", 0.3)), "valid/loss")
    update_leaderboard(written(tmp_path, trial("a", 0.3, reason="no")), "valid/loss")
    assert not (tmp_path / "best").is_symlink()


def test_leaderboard__of_nothing(tmp_path: Path) -> None:
    assert update_leaderboard(tmp_path, "valid/loss") == []
    assert not (tmp_path / "best").is_symlink()


def test_description__best_first_and_reasons_last() -> None:
    trials = [trial(f"t{n:02}", n / 100, lr=f"{n / 7}") for n in range(40)] + [trial("bad", 0, reason="out of memory")]
    text = describe_leaderboard(ranked(trials, "valid/loss"), "valid/loss")
    lines = text.splitlines()
    assert lines[0].split("  ")[0] == "rank"
    assert len(lines) == 1 + 30 + 1 + 1
    assert lines[-2] == "… and 10 more"
    assert lines[-1] == "failed: bad: out of memory"
    # On the terminal epochs count from 1.
    assert lines[1].split()[-2:] == ["3", "1.5"]


@pytest.mark.parametrize("objective", ["valid/loss", "valid/acc"])
def test_plot__numbers_names_and_one_value(tmp_path: Path, objective: str) -> None:
    some: list[dict[str, Any]] = [
        {"lr": "1e-4", "arch": "a", "one": "3", "flag": "/x/$a_b_c$"},
        {"lr": "0.1", "arch": "b", "one": "3", "flag": "false"},
        {"lr": "nan", "arch": "a", "one": "3"},
    ]
    trials = [trial(f"{n}", 0.5 / (n + 1), **values) for n, values in enumerate(some)]
    draw_sweep([*trials, trial("x", math.nan, reason="no")], objective, tmp_path / "sweep.png")
    with Image.open(tmp_path / "sweep.png") as image:
        assert image.size == (1512, 816)


def test_plot__nothing_to_draw(tmp_path: Path) -> None:
    draw_sweep([trial("a", 0.1, reason="no")], "valid/loss", tmp_path / "sweep.png")
    assert not (tmp_path / "sweep.png").exists()
