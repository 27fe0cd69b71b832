"""What headstart did not write is never deleted or replaced, and what it wrote is never read as images."""

import ast
import csv
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from archived import zip_of
from conftest import ROOT, SMALL, Script, draw, draw_classes, settings_of
from fork_server import ForkServer

from headstart import api, pipeline
from headstart.config.data import SplitSettings
from headstart.data.folders import MADE
from headstart.data.scan import scan_folder
from headstart.errors import HeadstartError
from headstart.features.store import FeatureStore, Key
from headstart.files import MARKER, PREDICTIONS, RUN, claim, is_own, kind_of, mark, mark_if_empty, remove
from headstart.predict.sources import find_images
from headstart.run_folder import RunFolder
from headstart.text import as_file_name

# Names that some command writes, in a folder of the user's.
FIXED_NAMES = (
    *("config.yaml", "metrics.json", "run.json", "split.csv", "audit.json", "history.csv", "hparams.yaml"),
    *(".hydra/config.yaml", ".hydra/overrides.yaml", "checkpoints/best.ckpt", "checkpoints/last.ckpt"),
    *("valid_predictions.csv", "test_predictions.csv", "report/index.html", "report/report.json", "traceback.txt"),
    *("predictions.csv", "predictions.jsonl", "features.npy", "index.csv", "annotated/0.jpg", "explained/0.jpg"),
    *("contact_sheets/1.jpg", "contact_sheets/7.jpg", "model.onnx", "model.pt2", "compare.csv", "compare.json"),
    *("leaderboard.csv", "leaderboard.json", "sweep.json", "sweep.png", "out_of_fold.csv", "multirun.yaml"),
    *("best/metrics.json", "ensemble/ensemble.json", "ensemble/checkpoints/1.ckpt", "model.lr=0.1/trial.json"),
    *("model.lr=0.1/metrics.json", "model.lr=0.1/report/index.html"),
)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder in which the user has files with all of these names, and images."""
    folder = draw_classes(tmp_path / "mine", 4)
    for name in FIXED_NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps({"mine": name}))
    return folder


def content_of(folder: Path) -> dict[str, bytes | None]:
    """The bytes of every file in it by name; None: a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")
    }


RULE = ("data.split.train=2", "data.split.valid=1")
COMMANDS = {
    "train": ("train.py", "data.root={images}", *SMALL, "hydra.run.dir={mine}"),
    "train by an interpolation": ("train.py", "data.root={images}", *SMALL, "+x={mine}", "hydra.run.dir=${{x}}"),
    "audit": ("train.py", "task=audit", "data.root={images}", *SMALL, "hydra.run.dir={mine}"),
    "compare": ("train.py", "task=compare", "data.root={images}", *SMALL, "hydra.run.dir={mine}"),
    "test": ("train.py", "task=test", "ckpt_path={run}", "hydra.run.dir={mine}"),
    "sweep": ("train.py", "-m", "model.lr=0.1,0.2", "data.root={images}", *SMALL, "hydra.sweep.dir={mine}"),
    "predict": ("predict.py", "ckpt_path={run}", "source={images}", "output={mine}", "annotate=true", "explain=true"),
    "predict labelled": ("predict.py", "ckpt_path={run}", "source={images}", "output={mine}", "labelled=true"),
    "predict into its source": ("predict.py", "ckpt_path={run}", "source={mine}", "output={mine}", "annotate=true"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_command__leaves_the_users_files_as_they_are(
    command: tuple[str, ...],
    script: Script,
    trained: Path,
    mine: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "link").symlink_to("mine")
    before = content_of(mine)
    for named, folder in ((str(mine), tmp_path), (".", mine), (str(tmp_path / "link"), tmp_path)):
        monkeypatch.chdir(folder)
        name, *arguments = (
            part.format(mine=named, images=trained.parent / "images", run=trained) if "{" in part else part
            for part in command
        )
        done = script(name, *arguments)
        assert done.status == 1, done.out
        assert len(done.err.splitlines()) == 1
        key = "output" if name == "predict.py" else "hydra.sweep.dir" if "-m" in arguments else "hydra.run.dir"
        assert done.err.startswith(f"error: {key}={named} is not empty, and headstart did not make it: choose another ")
        assert content_of(mine) == before
        assert {path.name for path in tmp_path.iterdir()} <= {"mine", "link", "work"}


def test_embed__leaves_the_users_files_as_they_are(forks: ForkServer, trained: Path, mine: Path) -> None:
    before = content_of(mine)
    arguments = (f"ckpt_path={trained}", f"source={trained.parent / 'images'}", f"output={mine}")
    done = forks.run(str(ROOT / "src" / "headstart" / "__main__.py"), "embed", *arguments)
    assert (done.returncode, content_of(mine)) == (1, before)
    assert "is not empty, and headstart did not make it" in done.stderr


@pytest.mark.slow
def test_python__leaves_the_users_files_as_they_are(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_of(mine)
    for call in (
        lambda: api.train(*SMALL, data=mine, folder=mine),
        lambda: api.sweep(*SMALL, data=mine, folder=mine, lr=[0.1, 0.2]),
        lambda: api.audit(mine, *SMALL, folder=mine),
    ):
        with pytest.raises(HeadstartError, match="is not empty, and headstart did not make it"):
            call()
    assert content_of(mine) == before


def test_export__replaces_models_of_its_own_only(trained: Path, tmp_path: Path, forks: ForkServer) -> None:
    # A checkpoint that has been copied elsewhere, beside models of another program.
    shutil.copy(RunFolder(trained).best, tmp_path / "best.ckpt")
    for name in ("model.pt2", "other.pt2"):
        (tmp_path / name).write_text("mine")
    script, checkpoint = str(ROOT / "train.py"), f"ckpt_path={tmp_path / 'best.ckpt'}"
    for options in ((), (f"export.path={tmp_path / 'other.pt2'}",)):
        done = forks.run(script, "task=export", "export.format=pt2", checkpoint, *options, folder=tmp_path)
        assert done.returncode == 1
        assert "is not a model that headstart exported, so it is not replaced" in done.stderr
    assert (tmp_path / "model.pt2").read_text() == (tmp_path / "other.pt2").read_text() == "mine"


def test_outputs__can_be_written_again_by_the_same_kind_of_command_only(
    trained: Path, script: Script, tmp_path: Path
) -> None:
    arguments = (f"ckpt_path={trained}", f"source={trained.parent / 'images' / 'red'}")
    report = content_of(RunFolder(trained).report)
    for output in ("new", "new", tmp_path / "work" / "new"):
        assert script("predict.py", *arguments, f"output={output}", "annotate=true").status == 0
    Path("empty").mkdir()
    Path("empty", ".DS_Store").touch()
    assert script("predict.py", *arguments, "output=empty").status == 0
    for folder, what in ((trained, "a run"), (RunFolder(trained).report, "a report")):
        result = script("predict.py", *arguments, f"output={folder}", "labelled=true")
        assert f"output={folder} is the folder of {what}: choose another folder, such as" in result.err
    result = script("train.py", *SMALL, f"data.root={trained.parent / 'images'}", "hydra.run.dir=new")
    assert result.err == (
        "error: hydra.run.dir=new is the folder of predictions: choose another folder, such as hydra.run.dir=new/run\n"
    )
    assert content_of(RunFolder(trained).report) == report


def test_predictions__a_folder_of_the_users_in_the_output_stays(trained: Path, script: Script, tmp_path: Path) -> None:
    arguments = (f"ckpt_path={trained}", f"source={trained.parent / 'images' / 'red'}", "output=out")
    assert script("predict.py", *arguments).status == 0
    for make in (lambda path: path.mkdir(), lambda path: path.symlink_to(tmp_path / "elsewhere")):
        (tmp_path / "elsewhere").mkdir(exist_ok=True)
        make(Path("out/contact_sheets"))
        Path("out/contact_sheets/1.jpg").write_text("mine")
        result = script("predict.py", *arguments, "annotate=true")
        assert "out/contact_sheets is not empty, and headstart did not make it: move it elsewhere" in result.err
        assert Path("out/contact_sheets/1.jpg").read_text() == "mine"
        Path("out/contact_sheets").rename(tmp_path / str(make))


def test_predictions__a_copy_by_links_keeps_the_old_ones(trained: Path, script: Script) -> None:
    images = trained.parent / "images"
    script("predict.py", f"ckpt_path={trained}", f"source={images / 'red'}", "output=out")
    os.link("out/predictions.csv", "kept.csv")
    before = Path("kept.csv").read_bytes()
    script("predict.py", f"ckpt_path={trained}", f"source={images / 'blue'}", "output=out")
    assert Path("kept.csv").read_bytes() == before != Path("out/predictions.csv").read_bytes()


def test_predictions__made_twice_below_their_source__are_of_the_same_images(trained: Path, script: Script) -> None:
    for name in "abcdef":
        draw(Path("photos", name, "0.jpg"), (200, 50, 40), seed=ord(name))
    for source in ("photos", "photos", "photos/**/*.jpg", "photos/*/*.jpg"):
        result = script("predict.py", f"ckpt_path={trained}", f"source={source}", "output=photos/out", "annotate=true")
        assert result.status == 0, result.err
        with Path("photos/out/predictions.csv").open() as file:
            assert len(list(csv.DictReader(file))) == 6
    # What is named is read.
    assert script("predict.py", f"ckpt_path={trained}", "source=photos/out/annotated/a/0.jpg").status == 0
    assert len(script("predict.py", f"ckpt_path={trained}", "source=photos/out/annotated").out.splitlines()) == 6


@pytest.mark.parametrize("layout", ["flat", "split_folders"])
def test_train__in_the_folder_of_the_images_again_and_again(
    layout: str, request: pytest.FixtureRequest, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(request.getfixturevalue(layout))
    arguments = ("data.root=.", *SMALL, "trainer.max_epochs=1", "logger=none")
    logs, two = "1 folder that headstart made left out (logs)", "2 folders that headstart made left out (logs and mine)"
    for made, *options in ((logs,), (logs,), (two, "hydra.run.dir=mine"), (two, "task=audit")):
        result = script("train.py", *arguments, *options)
        assert "3 classes" in result.out, result.err
        assert made in result.out
    assert "other file" not in result.out
    (audit,) = sorted(Path("logs").rglob("audit.json"), key=os.path.getmtime)[-1:]
    assert json.loads(audit.read_text())["made_by_headstart"] == ["logs", "mine"]


def test_cache__in_the_folder_of_the_images_is_no_class(
    flat: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(flat))
    for _ in range(2):
        result = script("train.py", f"data.root={flat}", *SMALL, "trainer.max_epochs=1", "logger=none")
        assert "3 classes" in result.out, result.err
    assert "2 folders that headstart made left out (audit and features)" in result.out


def test_classes__may_be_called_as_outputs_are(tmp_path: Path, script: Script) -> None:
    for name in ("checkpoints", "logs", "predictions", "report"):
        for index in range(4):
            draw(tmp_path / "images" / name / f"{index}.png", (9, 90, 200), seed=index)
    result = script("train.py", "task=audit", f"data.root={tmp_path / 'images'}", *SMALL)
    assert "4 classes" in result.out
    assert "headstart made" not in result.out


def test_data_root__that_headstart_wrote__is_one_sentence(tmp_path: Path, script: Script) -> None:
    draw_classes(tmp_path / "out", 4)
    mark(tmp_path / "out", PREDICTIONS)
    result = script("train.py", "task=audit", f"data.root={tmp_path / 'out'}", *SMALL)
    assert result.err == (
        f"error: data.root={tmp_path / 'out'} holds what headstart wrote: give the folder of your images, or, if these "
        f"are yours, delete {tmp_path / 'out' / MARKER}\n"
    )


def test_report__into_the_users_folder_is_refused(trained: Path, mine: Path, script: Script) -> None:
    shutil.copy(RunFolder(trained).best, mine / "checkpoints" / "best.ckpt")
    shutil.copy(RunFolder(trained).history, mine / "history.csv")
    shutil.rmtree(mine / ".hydra")
    (mine / "config.yaml").unlink()
    before = content_of(mine)
    checkpoint = f"ckpt_path={mine / 'checkpoints' / 'best.ckpt'}"
    result = script("train.py", "task=report", checkpoint, f"data.root={trained.parent / 'images'}", *SMALL)
    assert f"{mine} is not empty, and headstart did not make it" in result.err
    assert content_of(mine) == before


def test_configuration_of_the_users_own__marks_the_run_too(script: Script, flat: Path) -> None:
    Path("own").mkdir()
    page = (ROOT / "conf" / "train.yaml").read_text()
    own = "".join(line for line in page.splitlines(True) if "SweepCallback" not in line)
    Path("own", "mine.yaml").write_text(own.replace("  callbacks:\n    sweep:\n", ""))
    arguments = ("--config-dir", "own", "--config-name", "mine", f"data.root={flat}", "task=audit", "hydra.run.dir=run")
    result = script("train.py", *arguments, *SMALL)
    assert result.status == 0, result.err
    assert kind_of(Path("run")) == RUN


def test_csv_logger__replaces_no_file_of_the_users(tmp_path: Path, script: Script, flat: Path) -> None:
    (tmp_path / "metrics.csv").write_text("mine")
    logger = ("_target_=pytorch_lightning.loggers.CSVLogger", f"save_dir={tmp_path}", "name=''", "version=''")
    result = script("train.py", f"data.root={flat}", *SMALL, *(f"+logger.csv.{argument}" for argument in logger))
    assert result.err == (
        f"error: logger.csv would replace {tmp_path / 'metrics.csv'}: choose another save_dir, name or version\n"
    )
    assert (tmp_path / "metrics.csv").read_text() == "mine"


def test_archive__folders_in_it_that_headstart_made_are_left_out(tmp_path: Path, messages: list[str]) -> None:
    for name in ("ant/0.jpg", "bee/0.jpg", "out/0.jpg", "bee/out/0.jpg"):
        draw(tmp_path / "photos" / name, (9, 90, 200), seed=0, size=(8, 8))
    for name in ("out", "bee/out"):
        mark(tmp_path / "photos" / name, PREDICTIONS)
    for archive in (zip_of(tmp_path / "photos", tmp_path / "photos.zip"), tmp_path / "photos"):
        assert [path.parent.name for path in find_images(str(archive))] == ["ant", "bee"]
        scan = scan_folder(archive, SplitSettings(0.5, 0.5), 0)
        assert {sample.path for sample in scan.samples} == {"ant/0.jpg", "bee/0.jpg"}
        assert scan.left_out == {"out": MADE, "bee/out": MADE}
    assert "2 folders that headstart made left out" in messages[0]


def test_failed_run__removes_no_folder_of_the_users(script: Script, tmp_path: Path) -> None:
    draw_classes(tmp_path / "images", 1)
    (tmp_path / "mine" / "empty").mkdir(parents=True)
    for place in ("mine/empty", "mine/new/run"):
        result = script("train.py", f"data.root={tmp_path / 'images'}", *SMALL, f"hydra.run.dir={tmp_path / place}")
        assert result.status == 1
        assert content_of(tmp_path / "mine") == {"empty": None}


def test_cache__in_the_users_folder_deletes_nothing_else(mine: Path) -> None:
    # A folder that looks like that of a key, but is not named by what is in it.
    (mine / "ant").mkdir()
    (mine / "ant" / "key.json").write_text('{"legs": 6}')
    (mine / "ant" / "view-0000.npy").write_bytes(bytes(1000))
    before = content_of(mine)
    store = FeatureStore(mine, max_gb=300e-9)
    for name in ("a", "b", "c"):
        key = Key(name, {"n": name})
        store.get_or_compute(key, 0, shape=(4, 4), dtype="float16", rows=lambda: [np.zeros((4, 4), np.float16)])
    assert content_of(mine).items() >= before.items()
    made = [path for path in mine.iterdir() if path.name[0] in "abc" and (path / MARKER).exists()]
    assert len(made) == 1


def test_claim__marks_folders_that_are_new_or_empty(tmp_path: Path) -> None:
    claim(tmp_path / "a" / "b", RUN)
    assert kind_of(tmp_path / "a" / "b") == RUN
    assert kind_of(tmp_path / "a") is None
    (tmp_path / "c").mkdir()
    for name in (".DS_Store", "Thumbs.db", ".gitkeep"):
        (tmp_path / "c" / name).touch()
    claim(tmp_path / "c", RUN)
    (tmp_path / "c" / "notes.txt").touch()
    claim(tmp_path / "c", RUN)
    (tmp_path / "d" / ".hydra").mkdir(parents=True)
    with pytest.raises(HeadstartError, match="d is not empty, and headstart did not make it: move it elsewhere"):
        claim(tmp_path / "d", RUN)
    mark_if_empty(tmp_path / "d", RUN)
    assert kind_of(tmp_path / "d") is None


def test_claim__suggests_a_folder_that_is_new(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(HeadstartError, match=r"such as hydra\.run\.dir=.*/run-2$"):
        claim(tmp_path, RUN, "hydra.run.dir")


def test_remove__only_what_is_in_a_folder_that_headstart_made(tmp_path: Path) -> None:
    mark(tmp_path / "run", RUN)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "1.jpg").touch()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "mine")
    assert not is_own(tmp_path / "run" / "link" / "1.jpg")
    for path in (tmp_path / "mine", tmp_path / "mine" / "1.jpg", tmp_path / "run" / "link" / "1.jpg"):
        with pytest.raises(HeadstartError, match="headstart did not write it"):
            remove(path)
    remove(tmp_path / "run" / "link")
    remove(tmp_path / "run" / "nothing")
    assert (tmp_path / "mine" / "1.jpg").exists()
    assert [path.name for path in (tmp_path / "run").iterdir()] == [MARKER]


@pytest.mark.parametrize(
    "label",
    ["../../x", "/abs", "a/b", "a\\b", "..", ".", "", "CON", "nul.txt", "a%2Fb", "x" * 300, "é" * 200, "a:b*?", "end."],
)
def test_label_as_a_file_name__is_one_in_the_folder(label: str, tmp_path: Path) -> None:
    name = as_file_name(label)
    (tmp_path / name).mkdir()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert as_file_name("a") == "a"
    assert as_file_name(label) != as_file_name(f"{label}_")


# Where something is deleted without `marker.remove`, and why that is none of the user's.
DELETES = {
    "files.py": "checks it; its own temporary file",
    "datasets/__init__.py": "a folder with headstart's record",
    "datasets/caltech256.py": "a partial download, whose name begins with .headstart",
    "storage.py": "its own note of which version a copy in the cache is",
    "features/cache.py": "files that it wrote, which have a checksum beside them",
    "features/compiled.py": "folders in the cache, in a folder that only headstart can write",
    "predict/sort.py": "an image that has another name now, as the user wished; incomplete copies; empty folders",
    "predict/write.py": "a file that it has just created, or is replaced in a folder that was claimed",
    "sweeping/leaderboard.py": "links to the files of trials",
}


@pytest.mark.slow
def test_source__deletes_by_the_marker() -> None:
    source = ROOT / "src" / "headstart"
    found = {path.relative_to(source).as_posix() for path in source.rglob("*.py") if any(_deletions(path))}
    assert found <= set(DELETES), "use headstart.files.remove"


def _deletions(path: Path) -> Iterator[ast.AST]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr in ("unlink", "rmtree", "rmdir"):
            yield node


def test_train__called_with_a_folder_of_the_users_is_refused(mine: Path) -> None:
    before = content_of(mine)
    with pytest.raises(HeadstartError, match=r"hydra\.run\.dir=.* is not empty, and headstart did not make it"):
        pipeline.train(replace(settings_of(*SMALL, f"data.root={mine}"), run_dir=str(mine)))
    assert content_of(mine) == before
