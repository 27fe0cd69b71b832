import csv
import math
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from headstart.files import SWEEP, mark, read_json, write_json
from headstart.log import log_to_console
from headstart.run_folder import RunFolder, SweepFolder
from headstart.sweeping.finalize import draw_sweep
from headstart.sweeping.leaderboard import EnsembleScore, Member, describe_leaderboard, ranked, update_leaderboard
from headstart.sweeping.trial_record import Trial, read_trials, write_trial


def trial(folder: str, loss: float, *, reason: str | None = None, **values: str) -> Trial:
    metrics = {"valid/loss": loss, "valid/acc": 1 - loss, "best_epoch": 2}
    return Trial(folder, values or {"lr": folder}, reason, metrics, 1.5, "config", "data")


def written(root: Path, *trials: Trial) -> SweepFolder:
    sweep = SweepFolder(root)
    for one in trials:
        sweep.trial(one.folder).path.mkdir(parents=True, exist_ok=True)
        write_trial(sweep.trial(one.folder), one)
    return sweep


def test_trial__written_and_read_again(tmp_path: Path) -> None:
    first = trial("a", 0.1 + 0.2)
    sweep = written(tmp_path, first)
    assert read_trials(sweep) == [first]
    sweep.trial("a").trial.write_text('{"half": ')
    assert read_trials(sweep) == []


def test_trial__record_of_version_0_1_is_not_used(tmp_path: Path) -> None:
    sweep = written(tmp_path, trial("a", 0.1))
    record = read_json(sweep.trial("a").trial)
    del record["format"]
    write_json(sweep.trial("a").trial, record)
    assert read_trials(sweep) == []


def test_ranked__failed_and_nan_last() -> None:
    trials = [trial("d", 0.0, reason="no"), trial("c", math.nan), trial("b", 0.2), trial("a", 0.2), trial("e", 0.1)]
    assert [t.folder for t in ranked(trials, "valid/loss")] == ["e", "a", "b", "c", "d"]
    assert [t.folder for t in ranked(trials, "valid/acc")][:3] == ["e", "a", "b"]


def test_best__holds_links_to_the_files_of_the_best_trial(tmp_path: Path) -> None:
    sweep = written(tmp_path, trial("a", 0.3))
    for name in ("events.1", "notes.txt", "metrics.json"):
        (sweep.trial("a").path / name).touch()
    update_leaderboard(sweep, "valid/loss")
    # TensorBoard would show the events twice, and the notes are not of the run.
    assert links_in(sweep.best) == {"trial.json": Path("../a/trial.json"), "metrics.json": Path("../a/metrics.json")}
    update_leaderboard(written(tmp_path, trial("b", 0.2)), "valid/loss")
    assert links_in(sweep.best) == {"trial.json": Path("../b/trial.json")}
    # The folder `best` is not another trial.
    with sweep.leaderboard.open() as file:
        assert [row["folder"] for row in csv.DictReader(file)] == ["b", "a"]
    assert not list(tmp_path.rglob("*.tmp"))
    assert not list(tmp_path.glob(".*"))


def test_best__removed_if_every_trial_failed(tmp_path: Path) -> None:
    sweep = written(tmp_path, trial("a", 0.3))
    update_leaderboard(sweep, "valid/loss")
    assert sweep.best.is_dir()
    update_leaderboard(written(tmp_path, trial("a", 0.3, reason="no")), "valid/loss")
    assert not sweep.best.exists()


def test_best__files_of_the_user_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = written(tmp_path, trial("a", 0.3))
    sweep.best.mkdir()
    (sweep.best / "trial.json").write_text("own")
    log_to_console()
    update_leaderboard(sweep, "valid/loss")
    assert capsys.readouterr().err == (
        f"warning: {sweep.best} could not be linked to the best trial: it holds other files\n"
    )
    assert (sweep.best / "trial.json").read_text() == "own"


def test_summary__counts_and_the_test_of_the_best_trial(tmp_path: Path) -> None:
    sweep = written(tmp_path, trial("a", 0.3), trial("b", 0.2), trial("c", 0.1, reason="no"))
    expected = {"trials": 3, "failed": 1, "objective": "valid/acc", "order": "highest first", "best": "b", "test": {}}
    expected |= {"tie": None, "over_seeds": [], "over_folds": [], "ensemble": None}
    update_leaderboard(sweep, "valid/acc")
    assert read_json(sweep.summary) == expected
    write_json(RunFolder(sweep.trial("b").test).metrics, {"test/acc": 0.9, "seconds": 1})
    update_leaderboard(sweep, "valid/acc")
    assert read_json(sweep.summary) == expected | {"test": {"test/acc": 0.9}}


def test_leaderboard__without_trials(tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path)
    assert update_leaderboard(sweep, "valid/loss") == []
    assert not sweep.best.exists()
    assert read_json(sweep.summary)["best"] is None


def links_in(folder: Path) -> dict[str, Path]:
    return {path.name: path.readlink() for path in folder.iterdir()}


def test_description__best_first_and_reasons_last() -> None:
    trials = [trial(f"t{n:02}", n / 100, lr=f"{n / 7}") for n in range(40)]
    trials += [trial(f"bad{n}", 0, reason="out of memory") for n in range(7)]
    lines = describe_leaderboard(ranked(trials, "valid/loss"), "valid/loss", None).splitlines()
    assert lines[0].split() == ["rank", "lr", "valid/loss", "valid/acc", "best", "epoch", "seconds"]
    assert len(lines) == 1 + 30 + 1 + 5 + 1
    assert lines[1].split()[-2:] == ["2", "1.5"]
    assert lines[31] == "… and 10 more"
    assert lines[32] == "failed: bad0: out of memory"
    assert lines[-1] == "… and 2 more failed"


@pytest.mark.parametrize(
    ("accuracy", "p_value", "verdict"),
    [
        (0.97, 0.04, "it is better"),
        (0.85, 0.04, "it is worse"),
        (0.97, 0.05, "the difference may be chance"),
    ],
)
def test_ensemble__is_the_last_row_and_compared_with_the_best(
    tmp_path: Path, accuracy: float, p_value: float, verdict: str
) -> None:
    members = tuple(Member(f"checkpoints/{n}.ckpt", name, "") for n, name in enumerate("ab"))
    score = EnsembleScore(members, {"valid/acc": accuracy, "valid/loss": 0.25}, 80, 0.9, p_value)
    sweep = written(tmp_path, trial("a", 0.1), trial("b", 0.2), trial("c", 0, reason="no"))
    trials = update_leaderboard(sweep, "valid/loss", ensemble=score)
    with sweep.leaderboard.open() as file:
        *rows, last = csv.DictReader(file)
    assert [row["rank"] for row in rows] == ["1", "2", ""]
    assert (last["rank"], last["folder"], last["valid/loss"], last["reason"]) == ("ensemble", "ensemble", "0.25", "")
    assert read_json(sweep.summary)["ensemble"]["p_value"] == p_value
    lines = describe_leaderboard(trials, "valid/loss", None, score).splitlines()
    assert lines[3].split() == ["ensemble", "0.2500", f"{accuracy:.4f}"]
    assert lines[4] == (
        f"on the 80 valid images, the ensemble of 2 trials has accuracy {accuracy:.4f} and the best trial 0.9000: "
        f"{verdict} (exact McNemar test, p = {p_value})"
    )
    assert lines[5] == "failed: c: no"


def test_description__every_trial_failed() -> None:
    assert describe_leaderboard([trial("a", 0, reason="no")], "valid/loss", None) == "failed: a: no"


def test_description__columns_are_aligned_and_long_names_are_neither_wrapped_nor_cut() -> None:
    long = "/a folder/" + "very long name/" * 30 + "weights.pth"
    values = {"model.weights": long, "callbacks.early_stopping.stopping_threshold": "[0.5]", "model.arch": "[bold]x[/]"}
    short = {"model.weights": "null", "callbacks.early_stopping.stopping_threshold": "1", "model.arch": "resnet18"}
    trials = [trial(f"{n}", n / 100, **(short if n % 2 else values)) for n in range(12)]
    header, *rows = describe_leaderboard(trials, "valid/acc", None).splitlines()
    assert len(rows) == len(trials)
    names = ["rank", *values, "valid/acc", "valid/loss", "best epoch", "seconds"]
    assert re.split(r" {2,}", header) == names
    starts = [header.index(name) for name in names]
    for number, (row, one) in enumerate(zip(rows, trials, strict=True)):
        cells = [row[a:b].rstrip() for a, b in zip(starts, [*starts[1:], None], strict=True)]
        loss = number / 100
        assert cells == [f"{number + 1}", *one.values.values(), f"{1 - loss:.4f}", f"{loss:.4f}", "2", "1.5"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["valid/loss", "valid/acc"])
def test_plot__numbers_names_and_a_single_value(tmp_path: Path, objective: str) -> None:
    some: list[dict[str, Any]] = [
        {"lr": "1e-4", "arch": "a", "one": "3", "flag": "/x/$a_b_c$"},
        {"lr": "0.1", "arch": "b", "one": "3", "flag": "false"},
        {"lr": "nan", "arch": "a", "one": "3"},
    ]
    trials = [trial(f"{n}", 0.5 / (n + 1), **values) for n, values in enumerate(some)]
    draw_sweep([*trials, trial("x", math.nan, reason="no")], objective, tmp_path / "sweep.png")
    with Image.open(tmp_path / "sweep.png") as image:
        assert image.size == (1512, 816)


def test_plot__none_if_every_trial_failed(tmp_path: Path) -> None:
    mark(tmp_path, SWEEP)
    (tmp_path / "sweep.png").write_text("of an earlier sweep")
    draw_sweep([trial("a", 0.1, reason="no")], "valid/loss", tmp_path / "sweep.png")
    assert not (tmp_path / "sweep.png").exists()
