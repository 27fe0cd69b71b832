"""What the leaderboard says about a sweep over folds."""

import csv
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from headstart.config.train import check_sweep
from headstart.errors import HeadstartError
from headstart.files import read_json
from headstart.run_folder import SweepFolder
from headstart.sweeping.finalize import update_ensemble
from headstart.sweeping.leaderboard import describe_leaderboard, ranked, update_leaderboard
from headstart.sweeping.trial_record import Trial, mean_objectives, over_folds, write_out_of_fold, write_trial


def trial(lr: str, fold: str, accuracy: float, reason: str | None = None) -> Trial:
    metrics = {"valid/acc": accuracy, "valid/loss": 1 - accuracy, "best_epoch": 2 + int(fold)}
    return Trial(f"{lr}-{fold}", {"model.lr": lr, "data.fold": fold}, reason, metrics, 1.5, "config", f"data{fold}")


# On average, the second setting is better, although the best fold is one of the first.
TRIALS = [trial("1e-2", "0", 0.98), trial("1e-2", "1", 0.9), trial("1e-3", "0", 0.96), trial("1e-3", "1", 0.95)]


def written(folder: Path, trials: list[Trial]) -> SweepFolder:
    sweep = SweepFolder(folder)
    for one in trials:
        run = sweep.trial(one.folder)
        run.path.mkdir()
        write_trial(run, one)
        run.valid_predictions.write_text(f"path,label,prediction\n{one.values['data.fold']}.jpg,ant,bee\n")
    return sweep


def test_ranked__by_the_mean_of_each_setting() -> None:
    assert [one.folder for one in ranked(TRIALS, "valid/acc")] == ["1e-3-0", "1e-3-1", "1e-2-0", "1e-2-1"]
    assert [one.folder for one in ranked(TRIALS, "valid/loss")] == ["1e-3-0", "1e-3-1", "1e-2-0", "1e-2-1"]
    of_ten = [trial("1e-2", str(fold), 0.9) for fold in range(11)]
    assert [one.values["data.fold"] for one in ranked(of_ten, "valid/acc")][-2:] == ["9", "10"]


def test_ranked__a_setting_with_a_failed_fold_comes_last() -> None:
    trials = [*TRIALS, trial("1e-4", "0", 0.99), trial("1e-4", "1", 0.99, reason="out of memory")]
    assert [one.folder for one in ranked(trials, "valid/acc")][-2:] == ["1e-4-0", "1e-4-1"]
    assert mean_objectives(trials, "valid/acc")[("model.lr", "1e-4"),] == float("-inf")


def test_over_folds__mean_and_standard_deviation() -> None:
    first, second = over_folds(ranked(TRIALS, "valid/acc"), ["valid/acc", "best_epoch", "test/acc"])
    assert (first.values, first.folds) == ({"model.lr": "1e-3"}, 2)
    assert first.means == pytest.approx({"valid/acc": 0.955, "best_epoch": 2.5})
    assert first.deviations == pytest.approx({"valid/acc": 0.01 / 2**0.5, "best_epoch": 0.5**0.5})
    assert second.means["valid/acc"] == pytest.approx(0.94)


def test_over_folds__needs_two_completed_folds() -> None:
    assert over_folds([trial("1e-2", "0", 0.9), trial("1e-2", "1", 0.9, reason="no")], ["valid/acc"]) == []
    without = Trial("a", {"model.lr": "1"}, None, {"valid/acc": 0.5}, 1.0, "", "")
    assert over_folds([without, without], ["valid/acc"]) == []


def test_leaderboard__one_row_per_fold_then_means_and_deviations(tmp_path: Path) -> None:
    sweep = written(tmp_path, TRIALS)
    update_leaderboard(sweep, "valid/acc")
    with sweep.leaderboard.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["rank"], row["model.lr"], row["data.fold"]) for row in rows] == [
        ("1", "1e-3", "0"),
        ("1", "1e-3", "1"),
        ("2", "1e-2", "0"),
        ("2", "1e-2", "1"),
        ("mean", "1e-3", ""),
        ("standard deviation", "1e-3", ""),
        ("mean", "1e-2", ""),
        ("standard deviation", "1e-2", ""),
    ]
    assert float(rows[4]["valid/acc"]) == pytest.approx(0.955)
    summary = read_json(sweep.summary)
    assert summary["best"] == "1e-3-0"
    assert [found["values"]["model.lr"] for found in summary["over_folds"]] == ["1e-3", "1e-2"]


def test_description__ends_with_the_means() -> None:
    lines = describe_leaderboard(ranked(TRIALS, "valid/acc"), "valid/acc", None).splitlines()
    assert " ".join(lines[-2].split()) == "mean 1e-3 2 folds 0.9550 ± 0.0071 0.0450 ± 0.0071 2.5 ± 0.7"


def test_out_of_fold__all_predictions_with_their_setting(tmp_path: Path) -> None:
    sweep = written(tmp_path, TRIALS)
    assert write_out_of_fold(sweep, TRIALS)
    assert sweep.out_of_fold.read_text().splitlines() == [
        "model.lr,data.fold,path,label,prediction",
        "1e-2,0,0.jpg,ant,bee",
        "1e-2,1,1.jpg,ant,bee",
        "1e-3,0,0.jpg,ant,bee",
        "1e-3,1,1.jpg,ant,bee",
    ]


def test_out_of_fold__not_without_folds(tmp_path: Path) -> None:
    assert not write_out_of_fold(SweepFolder(tmp_path), [Trial("a", {"model.lr": "1"}, None, {}, 1.0, "", "")])
    assert not SweepFolder(tmp_path).out_of_fold.exists()


def test_ensemble__of_folds_is_refused_with_the_reason(tmp_path: Path, messages: list[str]) -> None:
    assert update_ensemble(SweepFolder(tmp_path), TRIALS, 2, None) is None  # type: ignore[arg-type]
    (message,) = messages
    assert message.endswith("because the trials of a sweep over data.fold validate on different images")


def test_check_sweep__several_folds_of_an_unknown_number() -> None:
    sweep = {"over": ["data.fold"], "objective": "valid/loss", "ensemble": 0}
    config = OmegaConf.create(
        {"task": "train", "ckpt_path": None, "sweep": sweep, "data": {"folds": None}, "trainer": {"devices": 1}}
        | {"callbacks": {"checkpoint": {}}}
    )
    with pytest.raises(HeadstartError, match=r"^data\.fold has several values, but how many .* add data\.folds=5$"):
        check_sweep(config)
    config.data.folds = 5
    check_sweep(config)
