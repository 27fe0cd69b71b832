"""corrections.csv: whose labels it changes, which images it leaves out, and what is not used."""

import csv
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SMALL, Script, draw, settings_of

from headstart.data.corrections import COLUMNS, FILE, Correction, read_corrections, write_corrections
from headstart.data.images import read_rgb
from headstart.data.manifest import Manifest
from headstart.data.prepare import PreparedData, prepare_data
from headstart.errors import HeadstartError
from headstart.files import sha256_of
from headstart.run_folder import RunFolder

RULE = ("data.split.train=6", "data.split.valid=3")
Rows = Sequence[tuple[str, ...]]


def write(path: Path, rows: Rows, header: tuple[str, ...] = COLUMNS[:4]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def row(root: Path, path: str, action: str, label: str = "") -> tuple[str, ...]:
    return path, sha256_of(root / path), action, label


def data_of(root: Path, *overrides: str) -> PreparedData:
    settings = settings_of(*SMALL, f"data.root={root}", *RULE, *overrides).data
    return prepare_data(settings, settings.seed)


def manifest_of(root: Path, *overrides: str) -> Manifest:
    return data_of(root, *overrides).manifest


def classes_of(manifest: Manifest) -> dict[str, str]:
    """The class of each image, by its path."""
    return {
        path: manifest.classes[label]
        for split in manifest.splits.values()
        for path, label in zip(split.paths, split.labels, strict=True)
    }


@pytest.mark.slow
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


@pytest.mark.slow
def test_corrections__belong_to_the_content(flat: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.csv", [row(flat, "red/0.jpg", "relabel", "blue"), row(flat, "red/1.jpg", "relabel", "blue")]
    )
    (flat / "red" / "0.jpg").rename(flat / "green" / "moved.jpg")
    shutil.copy(flat / "red" / "1.jpg", flat / "green" / "copy.jpg")
    classes = classes_of(manifest_of(flat, f"data.corrections={file}"))
    assert {classes[path] for path in ("green/moved.jpg", "red/1.jpg", "green/copy.jpg")} == {"blue"}


@pytest.mark.slow
def test_corrections__without_a_hash_belong_to_the_path(flat: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "c.csv", [("blue", "red/0.jpg", "relabel")], ("label", "path", "action"))
    assert classes_of(manifest_of(flat, f"data.corrections={file}"))["red/0.jpg"] == "blue"


@pytest.mark.slow
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
    assert manifest.notes[0] == (
        f"{file}: labels corrected: 1; images left out: 0; not used, changed since: red/0.jpg; "
        "not used, gone: red/1.jpg; not used, contradictory: red/2.jpg"
    )
    classes = classes_of(manifest)
    assert [classes[f"red/{number}.jpg"] for number in (0, 2, 3)] == ["red", "red", "blue"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("path,action,label\nred/0.jpg,relabel,bleu\n", "the label 'bleu' of red/0.jpg is no class of "),
        ("path,action,label\nred/0.jpg,relabel,bleu\n", "did you mean blue?"),
        ("path,action,label\nred/0.jpg,relabel,\n", "line 2: red/0.jpg is to be relabelled, and the label is missing"),
        ("path,action\n\nred/0.jpg,delete\n", "the action 'delete' is none of relabel, keep, leave_out, add"),
        ("path,action,label\n../1.jpg,add,\n", "line 2: ../1.jpg is to be added, and the label is missing"),
        ("path,action,label\n../1.jpg,add,gren\n", "the label 'gren' of ../1.jpg is no class of "),
        ("path,action,label\n../\0.jpg,add,red\n", "line 2: the path has a NUL character"),
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


# Images that are added.


def new_image(path: Path, seed: int, colour: tuple[int, int, int] = (200, 50, 40)) -> Path:
    draw(path, colour, 50_000 + seed)
    return path


def added(file: Path, *names: tuple[str, str]) -> Path:
    """`file` with corrections that add images by their paths, with these labels."""
    return write(file, [(name, sha256_of(file.parent / name), "add", label) for name, label in names])


@pytest.mark.slow
def test_add__is_in_train_alone_by_relative_and_absolute_paths(flat: Path, tmp_path: Path) -> None:
    before = manifest_of(flat)
    first, second = (new_image(tmp_path / "pool" / f"{number}.jpg", number) for number in (1, 2))
    added(flat / FILE, ("../pool/1.jpg", "blue"), (str(second), "red"))
    manifest = manifest_of(flat)
    classes = classes_of(manifest)
    assert classes == classes_of(before) | {"../pool/1.jpg": "blue", str(second): "red"}
    for name in ("valid", "test"):
        assert manifest.splits[name].paths == before.splits[name].paths
        assert manifest.splits[name].fingerprint == before.splits[name].fingerprint
    assert manifest.fingerprint != before.fingerprint
    assert manifest.notes[-1] == f"{flat / FILE}: labels corrected: 0; images left out: 0; images added: 2"
    train = manifest.splits["train"]
    index = train.paths.index("../pool/1.jpg")
    assert train.read(index, 16).tobytes() == read_rgb(first).tobytes()
    assert classes_of(manifest_of(flat, "data.corrections=none")) == classes_of(before)


def test_add__elsewhere_than_beside_the_images(flat: Path, tmp_path: Path) -> None:
    new_image(tmp_path / "pool" / "1.jpg", 1)
    file = added(tmp_path / "pool" / "mine.csv", ("1.jpg", "green"))
    assert classes_of(manifest_of(flat, f"data.corrections={file}"))[str(tmp_path / "pool" / "1.jpg")] == "green"


def test_add__what_cannot_be_is_counted_and_named(flat: Path, tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    names = ["gone", "changed", "broken", "one", "other", "copy", "fine"]
    for number, name in enumerate(names):
        new_image(pool / f"{name}.jpg", number)
    shutil.copy(flat / "red" / "0.jpg", pool / "known.jpg")
    for name in ("copy", "other"):
        shutil.copy(pool / ("fine.jpg" if name == "copy" else "one.jpg"), pool / f"{name}.jpg")
    (pool / "broken.jpg").write_text("no image")
    labels = dict.fromkeys([*names, "known"], "blue") | {"other": "red"}
    added(flat / FILE, *((f"../pool/{name}.jpg", label) for name, label in labels.items()))
    (pool / "gone.jpg").unlink()
    new_image(pool / "changed.jpg", 99)
    manifest = manifest_of(flat)
    assert manifest.notes[-1].removeprefix(f"{flat / FILE}: ") == (
        "labels corrected: 0; images left out: 0; images added: 1; not used, changed since: ../pool/changed.jpg; "
        "not used, gone: ../pool/gone.jpg; not used, unreadable: ../pool/broken.jpg; "
        "not used, in the data: ../pool/known.jpg; not used, contradictory: ../pool/one.jpg, ../pool/other.jpg"
    )
    # A copy is the same image.
    assert {path for path in classes_of(manifest) if "pool" in path} == {"../pool/copy.jpg"}
    assert all("pool" not in path or path.endswith("copy.jpg") for path in data_of(flat).infos)


def test_add__then_relabelled_and_left_out(flat: Path, tmp_path: Path) -> None:
    for number in (1, 2, 3):
        new_image(tmp_path / "pool" / f"{number}.jpg", number)
    rows = [(f"../pool/{n}.jpg", sha256_of(tmp_path / "pool" / f"{n}.jpg"), "add", "blue") for n in (1, 2, 3)]
    changed = [(*rows[0][:2], "relabel", "red"), (*rows[1][:2], "leave_out", "")]
    write(flat / FILE, [*rows, *changed])
    manifest = manifest_of(flat)
    assert {p: c for p, c in classes_of(manifest).items() if "pool" in p} == {
        "../pool/1.jpg": "red",
        "../pool/3.jpg": "blue",
    }
    train = manifest.splits["train"]
    assert manifest.classes[train.uncorrected[train.paths.index("../pool/1.jpg")]] == "blue"


@pytest.mark.slow
def test_left_out__of_what_might_have_been_added_is_not_missed(flat: Path, tmp_path: Path) -> None:
    new_image(tmp_path / "pool" / "1.jpg", 1)
    write(flat / FILE, [("../pool/1.jpg", sha256_of(tmp_path / "pool" / "1.jpg"), "leave_out", "")])
    assert manifest_of(flat).notes[-1] == f"{flat / FILE}: labels corrected: 0; images left out: 0"


@pytest.mark.slow
@pytest.mark.parametrize("fold", [0, 1, 2])
def test_add__is_in_train_of_every_fold(flat: Path, tmp_path: Path, fold: int) -> None:
    folds = ("data.folds=3", f"data.fold={fold}")
    before = manifest_of(flat, *folds)
    new_image(tmp_path / "pool" / "1.jpg", 1)
    added(flat / FILE, ("../pool/1.jpg", "blue"))
    manifest = manifest_of(flat, *folds)
    assert manifest.splits["valid"].paths == before.splits["valid"].paths
    assert set(manifest.splits["train"].paths) == {*before.splits["train"].paths, "../pool/1.jpg"}


def test_add__no_pool_of_features_changes_but_one_of_its_own(flat: Path, tmp_path: Path) -> None:
    before = manifest_of(flat).splits["train"]
    for number in (1, 2, 3):
        new_image(tmp_path / "pool" / f"{number}.jpg", number)
    rows = [(f"../pool/{n}.jpg", sha256_of(tmp_path / "pool" / f"{n}.jpg"), "add", "blue", run) for n, run in
            ((1, "first"), (2, "second"), (3, "first"))]  # fmt: skip
    write(flat / FILE, rows[:1], (*COLUMNS[:4], "run"))
    first = manifest_of(flat).splits["train"].stored
    write(flat / FILE, [rows[0], rows[1]], (*COLUMNS[:4], "run"))
    second = manifest_of(flat).splits["train"]
    assert [pool.fingerprint for pool in first] == [before.fingerprint, first[1].fingerprint]
    assert [pool.fingerprint for pool in second.stored[:2]] == [pool.fingerprint for pool in first]
    assert [pool.stored_as for pool in second.stored] == ["train", "added", "added"]
    # Each image is at its place in one of the pools.
    values = [np.array([[*map(ord, path[-5:])] for path in pool.paths]) for pool in second.stored]
    assert second.own(values).tolist() == [[*map(ord, path[-5:])] for path in second.paths]
    places = [second.place(index) for index in range(len(second))]
    assert sorted(places) == sorted(place for pool in second.stored for place in range(len(pool)))


def test_add__to_and_from_an_archive(flat: Path, tmp_path: Path) -> None:
    new_image(tmp_path / "pool" / "a b" / "1.jpg", 1)
    for name in ("flat", "pool"):
        shutil.make_archive(str(tmp_path / name), "zip", tmp_path / name)
        shutil.rmtree(tmp_path / name)
    write(tmp_path / FILE, [("pool.zip/a b/1.jpg", "", "add", "blue")])
    manifest = manifest_of(tmp_path / "flat.zip")
    path = str(tmp_path / "pool.zip" / "a b" / "1.jpg")
    assert classes_of(manifest)[path] == "blue"
    train = manifest.splits["train"]
    assert train.read(train.paths.index(path), 16).size == (48, 40)


HOSTILE = ("line\nbreak.jpg", "<script>alert(1)</script>.jpg".replace("/", "_"), "-rf.jpg", "=1+1.jpg", 'a"b,c;.jpg')


@pytest.mark.slow
@pytest.mark.parametrize("name", [*HOSTILE, os.fsdecode(b"latin-\xe4.jpg"), " space .jpg"])
def test_add__any_name(flat: Path, tmp_path: Path, name: str) -> None:
    place = new_image(tmp_path / "pool" / name, 1)
    file = flat / FILE
    write_corrections(file, [Correction(f"../pool/{name}", sha256_of(place), "add", "red", "now", "run")])
    assert read_corrections(file)[0].path == f"../pool/{name}"
    assert classes_of(manifest_of(flat))[f"../pool/{name}"] == "red"


@pytest.mark.slow
def test_beside_the_images__a_file_of_the_users_own_is_not_used(flat: Path, caplog: pytest.LogCaptureFixture) -> None:
    (flat / FILE).write_text("invoice;amount\n1;2\n")
    assert set(classes_of(manifest_of(flat)).values()) == {"blue", "green", "red"}
    assert f"{flat / FILE} is not used: it has no column" in caplog.text


@pytest.mark.slow
def test_folds__are_of_corrected_labels_and_share_the_features(flat: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "c.csv", [row(flat, "red/0.jpg", "relabel", "blue"), row(flat, "red/1.jpg", "leave_out")])
    found = [manifest_of(flat, f"data.corrections={name}", "data.folds=3", "data.fold=1") for name in ("none", file)]
    assert found[0].splits["train"].stored[0].fingerprint == found[1].splits["train"].stored[0].fingerprint
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


def test_train__with_corrections(
    train: Callable[..., dict[str, Any]], flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"features.dir={tmp_path / 'features'}"
    train("before", store, "report=none")
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
    without = train("without", "features.cache=false", "report=none")
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
