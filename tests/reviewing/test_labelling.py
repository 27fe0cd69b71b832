"""task=label: which images are offered, what is written, and that the next training uses the labels."""

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import COLOURS, SMALL, Script, draw, draw_classes
from local_pages import ask, origin_of
from runs import run_script

from headstart.config.model import LabelSettings
from headstart.config.train import TrainSettings, check_train, read_record
from headstart.data.corrections import FILE, read_corrections
from headstart.errors import HeadstartError
from headstart.files import MARKER, sha256_of
from headstart.pipeline import choose_labels, review_server
from headstart.reviewing.local import ReviewServer
from headstart.run_folder import RunFolder

RULE = ("data.split.train=6", "data.split.valid=3")
HOSTILE = ("a\nb.jpg", "<script>alert(1)<.jpg", "=1+1.jpg", os.fsdecode(b"\xe4.jpg"))


def draw_pool(folder: Path, count: int = 4) -> Path:
    for number, colour in enumerate(COLOURS.values()):
        for index in range(count):
            draw(folder / f"{number}_{index}.jpg", colour, 70_000 + 100 * number + index)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run on the images in flat/, and images without labels in pool/; `base.copy` is kept as it is."""
    base = tmp_path_factory.mktemp("labelling") / "base"
    draw_classes(base / "flat", 12)
    draw_pool(base / "pool")
    train(partial(run_script, base), base, "run")
    shutil.copytree(base, base.with_suffix(".copy"))
    return base


@pytest.fixture
def run(base: Path) -> Path:
    """The folder of the run, with nothing in `base` that an earlier test has changed."""
    shutil.rmtree(base)
    shutil.copytree(base.with_suffix(".copy"), base)
    return base / "run"


def train(script: Script, folder: Path, name: str, *overrides: str) -> Path:
    store = f"features.dir={folder / 'features'}"
    result = script(
        "train.py", f"data.root={folder / 'flat'}", *SMALL, *RULE, store, *overrides, f"hydra.run.dir={folder / name}"
    )
    assert result.status == 0, result.err
    return folder / name


def settings_of_run(run: Path, source: Any, count: int = 5) -> TrainSettings:
    settings = check_train(read_record(RunFolder(run)))
    label = LabelSettings(source=source, count=count, serve=True)
    return replace(settings, task="label", ckpt_path=str(RunFolder(run).best), label=label)


def rows_of(run: Path) -> list[dict[str, str]]:
    path = RunFolder(run).label_next / "label_next.csv"
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def server(run: Path) -> Iterator[ReviewServer]:
    server = ReviewServer(choose_labels(settings_of_run(run, str(run.parent / "pool"), 6))).serve_in_thread()
    yield server
    server.close()


def decide(server: ReviewServer, index: int, action: str, label: str = "") -> int:
    body = {"index": index, "action": action, "label": label}
    return ask(f"{server.address}decisions", body, Origin=origin_of(server))[0]


def items_of(server: ReviewServer) -> list[dict[str, Any]]:
    page = ask(server.address)[1].decode()
    state = next(line for line in page.splitlines() if line.startswith("const state = "))
    items: list[dict[str, Any]] = json.loads(state.removeprefix("const state = ").rstrip(";"))["items"]
    return items


def test_label__writes_a_table_and_contact_sheets(run: Path, script: Script) -> None:
    pool = run.parent / "pool"
    (pool / "broken.jpg").write_text("no image")
    shutil.copy(run.parent / "flat" / "red" / "0.jpg", pool / "labelled.jpg")
    shutil.copy(pool / "0_0.jpg", pool / "0_0_again.jpg")
    arguments = ("task=label", f"ckpt_path={run}", f"source={pool}", "count=50", "label.serve=false")
    result = script("train.py", *arguments)
    assert result.status == 0, result.err
    assert f"read as: label.count=50 label.source={pool}" in result.out
    assert "1 image cannot be read, and left out: broken.jpg" in result.err
    rows = rows_of(run)
    assert [row["rank"] for row in rows] == [str(rank) for rank in range(1, len(rows) + 1)]
    names = [Path(row["path"]).name for row in rows]
    assert sorted(names) == [f"{number}_{index}.jpg" for number in range(3) for index in range(4)]
    margins = [float(row["margin"]) for row in rows]
    assert margins == sorted(margins)
    assert all(row["prediction"] in COLOURS and 0 < float(row["probability"]) <= 1 for row in rows)
    folder = RunFolder(run).label_next
    assert {path.name for path in folder.iterdir()} == {"label_next.csv", "contact_sheets", MARKER}
    assert (folder / "contact_sheets" / "1.jpg").is_file()
    assert not (run.parent / "flat" / FILE).exists()


def test_labels__over_http_join_the_next_training(
    run: Path, server: ReviewServer, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = run.parent / "flat" / FILE
    items = items_of(server)
    assert len(items) == 6
    assert all(item["split"] == "unlabelled" and item["label"] == "" and item["suggested"] for item in items)
    # What has a label is shown beside them, and is not to be labelled here.
    assert decide(server, 0, "add", "red") == 400
    assert decide(server, items[0]["index"], "relabel", "red") == 400
    assert decide(server, items[0]["index"], "add", "purple") == 400
    assert not file.exists()
    given = dict(zip((item["index"] for item in items[:4]), ("red", "blue", "red", "green"), strict=True))
    assert all(decide(server, index, "add", label) == 200 for index, label in given.items())
    assert decide(server, items[4]["index"], "leave_out") == 200
    assert decide(server, items[5]["index"], "add", "red") == 200
    assert decide(server, items[5]["index"], "undo") == 200
    similar = json.loads(ask(f"{server.address}similar/{items[0]['index']}?class=red")[1])
    assert len(similar) == 5
    assert all(ask(f"{server.address}images/{index}")[0] == 200 for index in (*similar, items[0]["index"]))
    rows = {row.path: row for row in read_corrections(file)}
    expected = {f"../{item['split'].replace('unlabelled', 'pool')}/{item['path']}": item for item in items[:5]}
    assert rows.keys() == expected.keys()
    for path, item in expected.items():
        assert (rows[path].action, rows[path].label) == (
            ("add", given[item["index"]]) if item["index"] in given else ("leave_out", "")
        )
        assert rows[path].sha256 == sha256_of(run.parent / "pool" / item["path"])

    seen = count_encoded(monkeypatch)
    again = train(script, run.parent, "again", "model.head=ridge")
    train_rows = {row["path"]: (row["class"], row["split"]) for row in table(again / "split.csv")}
    in_train = {path: value for path, value in train_rows.items() if path.startswith("../pool")}
    assert in_train == {path: (row.label, "train") for path, row in rows.items() if row.action == "add"}
    assert any("images added: 4" in note for note in json.loads((again / "run.json").read_text())["notes"])
    # Those that were added, and no other one.
    assert sum(seen) == 4

    seen.clear()
    labelling = choose_labels(settings_of_run(again, str(run.parent / "pool"), 50))
    offered = {labelling.paths[item.index] for item in labelling.items}
    assert not offered & {item["path"] for item in items[:5]}
    assert len(offered) == 12 - 5
    assert seen == []


def count_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of images that are encoded from now on, chunk by chunk."""
    from headstart.features.encoder import Encoder

    seen: list[int] = []
    forward = Encoder.forward

    def counting(self: Encoder, images: Any) -> Any:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Encoder, "forward", counting)
    return seen


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_label__again_before_the_next_training_offers_others(run: Path) -> None:
    pool = run.parent / "pool"
    labelling = choose_labels(settings_of_run(run, str(pool), 3))
    first = [labelling.paths[item.index] for item in labelling.items]
    labelling.decide(labelling.items[0].index, "add", "red")
    labelling.decide(labelling.items[1].index, "leave_out")
    again = choose_labels(settings_of_run(run, str(pool), 50))
    assert not {again.paths[item.index] for item in again.items} & set(first[:2])


@pytest.mark.slow
def test_review__of_added_images_keeps_them_added(run: Path) -> None:
    pool, file = run.parent / "pool", run.parent / "flat" / FILE
    labelling = choose_labels(settings_of_run(run, str(pool), 2))
    for item in labelling.items:
        labelling.decide(item.index, "add", "red")
    review = review_server(replace(settings_of_run(run, None), task="review"))
    review.close()
    from headstart.pipeline import _data_to_correct
    from headstart.reviewing.queue import Review

    settings = settings_of_run(run, None)
    found = Review(RunFolder(run), _data_to_correct(settings)[1].manifest, None, file)
    index = next(index for index, path in enumerate(found.paths) if path.startswith("../pool"))
    found.decide(index, "relabel", "blue")
    assert sorted(row.action for row in read_corrections(file)) == ["add", "add", "relabel"]
    manifest = _data_to_correct(settings)[1].manifest
    train = manifest.splits["train"]
    assert manifest.classes[train.labels[train.paths.index(found.paths[index])]] == "blue"
    found.decide(index, "undo")
    assert sorted(row.action for row in read_corrections(file)) == ["add", "add"]


@pytest.mark.slow
def test_names__are_hostile_texts(run: Path) -> None:
    pool = run.parent / "names"
    for number, name in enumerate(HOSTILE):
        draw(run.parent / "x.jpg", (10, 200, 90), 90_000 + number)
        pool.mkdir(exist_ok=True)
        shutil.move(run.parent / "x.jpg", pool / name)
    labelling = choose_labels(settings_of_run(run, str(pool), 50))
    assert {Path(row["path"]).name for row in rows_of(run)} == {labelling.paths[i.index] for i in labelling.items}
    server = ReviewServer(labelling).serve_in_thread()
    page = ask(server.address)[1].decode()
    server.close()
    assert "<script>alert" not in page
    for item in labelling.items:
        labelling.decide(item.index, "add", "red")
    written = {Path(row.path).name for row in read_corrections(run.parent / "flat" / FILE)}
    assert written == {labelling.paths[item.index] for item in labelling.items}


@pytest.mark.slow
def test_label__images_in_an_archive_and_far_from_the_corrections(run: Path) -> None:
    far = run.parent / "far" / "away"
    archive = Path(shutil.make_archive(str(far / "pool"), "zip", run.parent / "pool"))
    labelling = choose_labels(settings_of_run(run, str(archive), 2))
    labelling.decide(labelling.items[0].index, "add", "red")
    (row,) = read_corrections(run.parent / "flat" / FILE)
    assert row.path == f"../far/away/pool.zip/{labelling.paths[labelling.items[0].index]}"
    file = run.parent / "a" / "b" / "mine.csv"
    file.parent.mkdir(parents=True)
    settings = settings_of_run(run, str(archive), 2)
    elsewhere = replace(settings, data=replace(settings.data, corrections=str(file)))
    labelling = choose_labels(elsewhere)
    labelling.decide(labelling.items[0].index, "add", "red")
    assert read_corrections(file)[0].path == str(archive / labelling.paths[labelling.items[0].index])


@pytest.mark.parametrize("options", [("features.cache=false",), ("finetune=full", "features.cache=false")])
def test_label__without_stored_features(tmp_path: Path, script: Script, options: tuple[str, ...]) -> None:
    draw_classes(tmp_path / "flat", 12)
    draw_pool(tmp_path / "pool")
    run = train(script, tmp_path, "run", *options)
    result = script("train.py", "task=label", f"ckpt_path={run}", f"source={tmp_path / 'pool'}", "label.serve=false")
    assert result.status == 0, result.err
    assert rows_of(run)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "label.source is missing: the images without labels, label.source=FILE|DIR|GLOB"),
        (("source=nowhere",), "source=nowhere is not a file or folder, and no file matches it"),
        (("source=POOL", "count=0"), "label.count=0 is invalid: it must be a positive integer"),
        (("source=POOL", "data.corrections=none"), "task=label needs a file to write to: leave out data.corrections="),
        (("source=DATA",), "has no readable image that the data do not have already"),
    ],
)
def test_error__is_one_sentence(run: Path, script: Script, arguments: tuple[str, ...], message: str) -> None:
    words = [a.replace("POOL", str(run.parent / "pool")).replace("DATA", str(run.parent / "flat")) for a in arguments]
    result = script("train.py", "task=label", f"ckpt_path={run}", *words)
    assert result.status == 1
    assert result.err.splitlines()[-1].startswith("error: ")
    assert message in result.err.splitlines()[-1]
    assert not RunFolder(run).label_next.exists()


@pytest.mark.slow
def test_error__all_are_labelled(run: Path) -> None:
    settings = settings_of_run(run, str(run.parent / "pool" / "0_0.jpg"))
    labelling = choose_labels(settings)
    labelling.decide(labelling.items[0].index, "add", "red")
    with pytest.raises(HeadstartError, match=r"all 1 image of label.source=.* are labelled"):
        choose_labels(settings)


def test_without_the_extra__the_files_are_written(run: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "headstart.reviewing.local", raising=False)
    result = script("train.py", "task=label", f"ckpt_path={run}", f"source={run.parent / 'pool'}")
    assert result.status == 0, result.err
    assert 'to label them on a page: pip install "headstart[review]"' in result.out
    assert rows_of(run)
