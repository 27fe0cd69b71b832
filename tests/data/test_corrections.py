"""corrections.csv: whose labels it changes, which images it leaves out, and what is not used."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Script, settings_of

from headstart.data.corrections import COLUMNS, FILE
from headstart.data.manifest import Manifest
from headstart.data.prepare import prepare_data
from headstart.errors import HeadstartError
from headstart.files import sha256_of
from headstart.run_folder import RunFolder

RULE = ("data.split.train=6", "data.split.valid=3")
Rows = list[tuple[str, ...]]


def write(path: Path, rows: Rows, header: tuple[str, ...] = COLUMNS[:4]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def row(root: Path, path: str, action: str, label: str = "") -> tuple[str, ...]:
    return path, sha256_of(root / path), action, label


def manifest_of(root: Path, *overrides: str) -> Manifest:
    settings = settings_of(*SMALL, f"data.root={root}", *RULE, *overrides).data
    return prepare_data(settings, settings.seed).manifest


def classes_of(manifest: Manifest) -> dict[str, str]:
    """The class of each image, by its path."""
    return {
        path: manifest.classes[label]
        for split in manifest.splits.values()
        for path, label in zip(split.paths, split.labels, strict=True)
    }


def test_corrections__relabel_and_leave_out(flat: Path) -> None:
    before = classes_of(manifest_of(flat))
    rows = [
        row(flat, "red/0.jpg", "relabel", "blue"),
        row(flat, "red/1.jpg", "leave_out"),
        row(flat, "red/2.jpg", "keep"),
    ]
    write(flat / FILE, rows)
    corrected = manifest_of(flat)
    assert classes_of(corrected) == {k: v for k, v in before.items() if k != "red/1.jpg"} | {"red/0.jpg": "blue"}
    assert f"{flat / FILE}: labels corrected: 1; images left out: 1" in corrected.describe()
    assert corrected.left_out["red/1.jpg"] == "left out by corrections.csv"
    assert classes_of(manifest_of(flat, "data.corrections=none")) == before
    assert corrected.fingerprint != manifest_of(flat, "data.corrections=none").fingerprint


def test_corrections__belong_to_the_content(flat: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.csv", [row(flat, "red/0.jpg", "relabel", "blue"), row(flat, "red/1.jpg", "relabel", "blue")]
    )
    (flat / "red" / "0.jpg").rename(flat / "green" / "moved.jpg")
    shutil.copy(flat / "red" / "1.jpg", flat / "green" / "copy.jpg")
    classes = classes_of(manifest_of(flat, f"data.corrections={file}"))
    assert {classes[path] for path in ("green/moved.jpg", "red/1.jpg", "green/copy.jpg")} == {"blue"}


def test_corrections__without_a_hash_belong_to_the_path(flat: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "c.csv", [("blue", "red/0.jpg", "relabel")], ("label", "path", "action"))
    assert classes_of(manifest_of(flat, f"data.corrections={file}"))["red/0.jpg"] == "blue"


def test_corrections__that_fit_no_image_are_counted_and_named(flat: Path, tmp_path: Path) -> None:
    rows = [
        row(flat, "red/0.jpg", "relabel", "blue"),
        row(flat, "red/1.jpg", "relabel", "blue"),
        row(flat, "red/2.jpg", "relabel", "blue"),
        row(flat, "red/2.jpg", "relabel", "green"),
        row(flat, "red/3.jpg", "relabel", "blue"),
        row(flat, "red/3.jpg", "relabel", "blue"),
    ]
    file = write(tmp_path / "c.csv", rows)
    shutil.copy(flat / "red" / "4.jpg", flat / "red" / "0.jpg")
    (flat / "red" / "1.jpg").unlink()
    manifest = manifest_of(flat, f"data.corrections={file}")
    assert manifest.notes[-1] == (
        f"{file}: labels corrected: 1; images left out: 0; not used, changed since: red/0.jpg; "
        "not used, gone: red/1.jpg; not used, contradictory: red/2.jpg"
    )
    classes = classes_of(manifest)
    assert [classes[f"red/{number}.jpg"] for number in (0, 2, 3)] == ["red", "red", "blue"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,action,label\nred/0.jpg,relabel,bleu\n", "the label 'bleu' of red/0.jpg is no class of "),
        ("path,action,label\nred/0.jpg,relabel,bleu\n", "did you mean blue?"),
        ("path,action,label\nred/0.jpg,relabel,\n", "line 2: red/0.jpg is to be relabelled, and the label is missing"),
        ("path,action\n\nred/0.jpg,delete\n", "the action 'delete' is none of relabel, keep, leave_out"),
        ("file,class\nred/0.jpg,blue\n", "has no column path, action: its columns are path, sha256, action, label"),
        (None, "the file with corrections, cannot be read: No such file or directory"),
    ],
)
def test_error__names_the_file(flat: Path, tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "c.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(HeadstartError) as caught:
        manifest_of(flat, f"data.corrections={file}")
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_beside_the_images__a_file_of_the_users_own_is_not_used(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    (flat / FILE).write_text("invoice;amount\n1;2\n")
    assert set(classes_of(manifest_of(flat)).values()) == {"blue", "green", "red"}
    assert f"{flat / FILE} is not used: it has no column" in caplog.text


def test_folds__are_of_corrected_labels_and_share_the_features(flat: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "c.csv", [row(flat, "red/0.jpg", "relabel", "blue"), row(flat, "red/1.jpg", "leave_out")])
    found = [manifest_of(flat, f"data.corrections={name}", "data.folds=3", "data.fold=1") for name in ("none", file)]
    assert found[0].splits["train"].stored.fingerprint == found[1].splits["train"].stored.fingerprint
    assert classes_of(found[1])["red/0.jpg"] == "blue"
    assert "red/1.jpg" not in classes_of(found[1])


@pytest.fixture
def train(script: Script, flat: Path, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(name: str, *overrides: str) -> dict[str, Any]:
        result = script(
            "train.py",
            *(f"data.root={flat}", *SMALL, *RULE, "report=full", "features.precision=32", *overrides),
            f"hydra.run.dir={tmp_path / name}",
        )
        assert result.status == 0, result.err
        metrics: dict[str, Any] = json.loads((tmp_path / name / "metrics.json").read_text())
        return {key: value for key, value in metrics.items() if key != "seconds"} | {"out": result.out}

    return run


@pytest.mark.slow
def test_train__with_corrections(
    train: Callable[..., dict[str, Any]], flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"features.dir={tmp_path / 'features'}"
    train("before", store)
    test = [
        line.split(",")[0] for line in (tmp_path / "before" / "split.csv").read_text().splitlines() if ",test" in line
    ]
    rows = [row(flat, "red/0.jpg", "relabel", "blue"), row(flat, "blue/1.jpg", "leave_out")]
    rows += [row(flat, path, "relabel", "green") for path in test if path.startswith("red/")][:1]
    write(flat / FILE, rows)

    def fail(*_: object) -> None:
        pytest.fail("a label changes no features")

    with monkeypatch.context() as patch:
        patch.setattr("headstart.features.encoder.Encoder.encode_chunk", fail)
        patch.setattr("headstart.report.write.explain_mistakes", lambda *_: {})
        after = train("after", store)
    without = train("without", "features.cache=false")
    assert {k: v for k, v in after.items() if k != "out"} == pytest.approx(
        {k: v for k, v in without.items() if k != "out"}, rel=1e-3
    )
    assert f"{after['test/acc_uncorrected']:.3f} with the labels before corrections" in after["out"]
    run = RunFolder(tmp_path / "after")
    with run.split.open(newline="") as file:
        of_path = {line["path"]: line for line in csv.DictReader(file)}
    with run.test_predictions.open(newline="") as file:
        predicted = {line["path"]: line["prediction"] for line in csv.DictReader(file)}
    for column, metric in (("class", "test/acc"), ("uncorrected", "test/acc_uncorrected")):
        correct = [of_path[path][column] == prediction for path, prediction in predicted.items()]
        assert after[metric] == pytest.approx(sum(correct) / len(correct))
    assert sum(of_path[path]["class"] != of_path[path]["uncorrected"] for path in predicted) == 1
    assert (of_path["red/0.jpg"]["class"], of_path["red/0.jpg"]["uncorrected"]) == ("blue", "red")
    assert "blue/1.jpg" not in of_path
    assert any("labels corrected" in note for note in json.loads(run.record.read_text())["notes"])
    assert "uncorrected labels" in (run.report / "index.html").read_text()
    report = json.loads((run.report / "report.json").read_text())
    assert report["accuracy_uncorrected"] == pytest.approx(after["test/acc_uncorrected"])
