"""task=audit, and the audit that every training begins with."""

import csv
import json
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import SMALL, Script
from faulty import FAULTS, clean, copies_across, empty_file, extension_lies, imbalance, near_duplicate, other_file

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def report(folder: Path) -> dict:
    (path,) = folder.rglob("audit.json")
    return json.loads(path.read_text())


@pytest.fixture
def weights(tmp_path: Path) -> tuple[str, ...]:
    """A backbone with a file of weights: random ones, but not asked for as such, and enough to tell pictures apart."""
    path = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), path)
    # In bf16 the features of such weights are all the same.
    return "model.arch=mobilenet_v3_small", f"model.weights={path}", "features.precision=32"


def test_task__clean_is_status_0(script: Script, tmp_path: Path) -> None:
    result = script("train.py", "task=audit", f"data.root={clean(tmp_path / 'pictures')}", *SMALL)
    assert (result.status, result.err) == (0, "")
    assert "findings that spoil a result: 0; notes: 0" in result.out
    assert report(Path.cwd())["clean"] is True
    assert report(Path.cwd())["findings"] == []


def test_task__notes_alone_are_status_0(script: Script, tmp_path: Path) -> None:
    extension_lies(clean(tmp_path / "pictures"))
    result = script("train.py", "task=audit", f"data.root={tmp_path / 'pictures'}", *SMALL)
    assert result.status == 0
    assert "findings that spoil a result: 0; notes: 1" in result.out
    assert "train/ant/really_png.jpg: it is PNG" in result.out


def test_task__every_fault_is_found_and_nothing_else(script: Script, tmp_path: Path, weights: tuple[str, ...]) -> None:
    root = clean(tmp_path / "pictures")
    expected = [fault(root) for fault in FAULTS]
    result = script("train.py", "task=audit", f"data.root={root}", *SMALL, *weights, "data.near_duplicates=true")
    assert result.status == 1
    assert result.err == ""
    found = report(Path.cwd())
    renamed = {path: path.replace("test/cat/", "test/Cat /") for _, paths in expected for path in paths}
    assert sorted((finding["kind"], finding["paths"]) for finding in found["findings"]) == sorted(
        (kind, [renamed[path] for path in paths]) for kind, paths in expected
    )
    assert found["clean"] is False
    assert found["pictures"]["train"]["ant"] > 12
    for kind, _ in expected:
        assert f"× {kind}\n" in result.out


def test_task__changes_nothing_in_the_folder(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "pictures")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    script("train.py", "task=audit", f"data.root={root}", *SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_near_duplicates__found_by_the_features_of_an_earlier_training(
    script: Script, tmp_path: Path, weights: tuple[str, ...]
) -> None:
    root = clean(tmp_path / "pictures")
    _, paths = near_duplicate(root)
    store = f"features.dir={tmp_path / 'features'}"
    arguments = (f"data.root={root}", *SMALL, *weights, store)
    before = script("train.py", "task=audit", *arguments, f"hydra.run.dir={tmp_path / 'before'}")
    assert "near duplicates: not looked for (a training does" in before.out
    trained = script("train.py", *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    warning = f"warning: near duplicates across splits: {paths[0]} and {paths[1]}: similarity 0.9"
    assert warning in trained.err
    files = set((tmp_path / "features").rglob("*.npy"))
    after = script("train.py", "task=audit", *arguments, f"hydra.run.dir={tmp_path / 'after'}")
    assert "near duplicates: looked for" in after.out
    assert set((tmp_path / "features").rglob("*.npy")) == files
    for folder in ("run", "after"):
        (finding,) = report(tmp_path / folder)["findings"]
        assert (finding["kind"], finding["paths"]) == ("near duplicates across splits", list(paths))


def test_near_duplicates__of_random_weights_are_refused(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "pictures")
    result = script("train.py", "task=audit", f"data.root={root}", *SMALL, "data.near_duplicates=true")
    assert result.status == 1
    assert result.err.startswith("error: data.near_duplicates=true needs")


def test_training__clean_data_are_told_in_one_line(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "pictures")
    result = script("train.py", f"data.root={root}", *SMALL)
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[0] == f"{root}: 3 classes, 36 train, 12 valid, 12 test pictures"
    assert report(Path.cwd())["clean"] is True


def test_training__warns_of_what_spoils_and_goes_on(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "pictures")
    copies_across(root)
    other_file(root)
    result = script("train.py", f"data.root={root}", *SMALL)
    assert result.status == 0
    warning = (
        "warning: copies across splits: train/ant/04.jpg and test/ant/again.jpg: the same picture in test and train"
    )
    assert result.err.splitlines() == [warning]


def test_training__leaves_out_what_the_policies_say_and_records_it(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "pictures")
    copies_across(root)
    empty_file(root)
    refused = script("train.py", f"data.root={root}", *SMALL)
    assert refused.status == 1
    assert "test/bee/nothing.jpg cannot be read as a picture: the file is empty" in refused.err
    result = script("train.py", f"data.root={root}", *SMALL, "data.on_unreadable=skip", "data.on_leak=drop")
    assert (result.status, result.err) == (0, "")
    assert "35 train, 12 valid, 13 test pictures" in result.out
    assert "left out, unreadable: test/bee/nothing.jpg" in result.out
    assert "left out, also in valid or test: train/ant/04.jpg" in result.out
    (record,) = Path.cwd().rglob("run.json")
    assert json.loads(record.read_text())["skipped"] == ["test/bee/nothing.jpg"]
    assert json.loads(record.read_text())["dropped"] == ["train/ant/04.jpg"]
    assert report(Path.cwd())["skipped"] == ["test/bee/nothing.jpg"]


def test_balance__warns_of_imbalance_only_where_nothing_is_done(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "pictures")
    imbalance(root)
    losses = {}
    for balance in ("none", "loss", "sampler"):
        run = tmp_path / balance
        result = script("train.py", f"data.root={root}", *SMALL, f"data.balance={balance}", f"hydra.run.dir={run}")
        assert result.status == 0
        assert ("warning: imbalance: 'hen' has 4.2 ×" in result.err) == (balance == "none")
        losses[balance] = [row["train/loss"] for row in csv.DictReader((run / "history.csv").open())]
    assert len({tuple(curve) for curve in losses.values()}) == 3


@pytest.mark.parametrize("balance", ["loss", "sampler"])
def test_balance__resumed_like_a_whole_run(script: Script, tmp_path: Path, balance: str) -> None:
    root = clean(tmp_path / "pictures")
    imbalance(root)
    arguments = (f"data.root={root}", *SMALL, f"data.balance={balance}")
    script("train.py", *arguments, f"hydra.run.dir={tmp_path / 'whole'}")
    script("train.py", *arguments, f"hydra.run.dir={tmp_path / 'part'}", "trainer.max_epochs=1")
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    refused = script("train.py", f"ckpt_path={last}", "data.balance=none", f"hydra.run.dir={tmp_path / 'other'}")
    assert f"its balance is {balance}, not none" in refused.err
    script("train.py", f"ckpt_path={last}", "trainer.max_epochs=3", f"hydra.run.dir={tmp_path / 'resumed'}")
    assert (tmp_path / "whole" / "history.csv").read_text() == (tmp_path / "resumed" / "history.csv").read_text()
