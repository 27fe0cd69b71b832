"""Training on images that a CSV labels, and on folds."""

import csv
from collections import Counter
from pathlib import Path

from conftest import SMALL, Script

from headstart.files import read_json

OF_CSV = tuple("data=csv" if override == "data=folder" else override for override in SMALL)


def labels(root: Path, *, encoding: str = "cp1252") -> Path:
    """A table of the images in `root`, as a spreadsheet in Germany writes it; two images each are of one Tier."""
    rows = ["Datei;Käfer;Tier"]
    for path in sorted(root.rglob("*.jpg")):
        rows.append(f"{path.parent.name}\\{path.name};{path.parent.name};{path.parent.name} {int(path.stem) // 2}")
    table = root.parent / "labels.csv"
    table.write_bytes("\r\n".join(rows).encode(encoding))
    return table


def test_csv__trains_tests_and_resumes_as_a_folder_does(script: Script, flat: Path, tmp_path: Path) -> None:
    columns = ("data.columns.path=Datei", "data.columns.label=Käfer", "data.group=Tier")
    given = (f"data.csv={labels(flat)}", f"data.root={flat}", *columns)
    run = tmp_path / "run"
    trained = script("train.py", *OF_CSV, *given, "trainer.max_epochs=1", f"hydra.run.dir={run}")
    assert trained.status == 0, trained.err
    assert f"{flat}: 3 classes, " in trained.out + trained.err
    assert "groups: 18" in trained.out + trained.err
    with (run / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(rows) == 36
    assert all(len(found) == 1 for found in splits.values())
    assert script("train.py", "task=report", f"ckpt_path={run}").status == 0
    assert (run / "report" / "index.html").is_file()
    tested = script("train.py", "task=test", f"ckpt_path={run}", f"hydra.run.dir={tmp_path / 'tested'}")
    assert tested.status == 0, tested.err
    assert read_json(tmp_path / "tested" / "metrics.json")["test/acc"] == read_json(run / "metrics.json")["test/acc"]
    resumed = script("train.py", f"ckpt_path={run}", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'resumed'}")
    assert resumed.status == 0, resumed.err
    assert (
        read_json(tmp_path / "resumed" / "run.json")["data_fingerprint"]
        == (read_json(run / "run.json")["data_fingerprint"])
    )


def test_csv__audit_names_what_is_wrong(script: Script, flat: Path) -> None:
    table = labels(flat)
    table.write_text("path,label\nred/0.jpg,red\nred/0.jpg,blue\ngone.jpg,blue\nred/1.jpg,\nblue/0.jpg,blue\n")
    result = script("train.py", "task=audit", *OF_CSV, f"data.csv={table}", f"data.root={flat}")
    assert result.status == 1
    for kind in ("missing file", "incomplete row", "conflicting labels"):
        assert kind in result.out


def test_folds__of_a_sweep_have_a_mean_and_all_predictions(script: Script, flat: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    cache = tmp_path / "features"
    given = (
        f"data.root={flat}",
        "data.split.train=0.7",
        f"features.dir={cache}",
        "data.folds=3",
        "trainer.max_epochs=2",
    )
    result = script("train.py", *SMALL, *given, "-m", "data.fold=range(3)", f"hydra.sweep.dir={sweep}")
    assert result.status == 0, result.err
    with (sweep / "leaderboard.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["rank"] for row in rows] == ["1", "1", "1", "mean", "standard deviation"]
    assert sorted(row["data.fold"] for row in rows[:3]) == ["0", "1", "2"]
    (over_folds,) = read_json(sweep / "leaderboard.json")["over_folds"]
    assert over_folds["folds"] == 3
    with (sweep / "out_of_fold.csv").open(newline="") as file:
        predictions = list(csv.DictReader(file))
    # 30 images of train and valid, each once; the other 6 are the test split's.
    assert Counter(Counter(row["path"] for row in predictions).values()) == {1: 30}
    # The unaugmented view of train and valid together, which is the first epoch's too, and an augmented one.
    assert sorted(path.name for path in cache.glob("*-folds-*/*.npy")) == ["view-0000.npy", "view-0001.npy"]
    assert not list(cache.glob("*-train-*"))


def test_folds__several_need_their_number(script: Script, flat: Path) -> None:
    result = script("train.py", *SMALL, f"data.root={flat}", "-m", "data.fold=range(3)")
    assert (result.status, result.err) == (
        1,
        "error: data.fold has several values, but how many folds there are is not set: add data.folds=5\n",
    )
