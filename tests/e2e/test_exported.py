"""task=export, and predict.py with what it writes, as a user runs them."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, Script
from runs import run_script

import headstart
from headstart import ExportedPredictor, HeadstartError
from headstart.files import MARKER
from headstart.run_folder import RunFolder

for package in ("onnx", "onnxscript", "onnxruntime"):
    pytest.importorskip(package)
# What a machine that only predicts does not have.
ABSENT = ("torch", "torchvision", "pytorch_lightning", "torchmetrics", "tensorboard", "matplotlib", "jinja2", "onnx")


@pytest.fixture(scope="module")
def models(trained_to_export: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of a finished run, whose folder has been moved since."""
    folder = tmp_path_factory.mktemp("export")
    run = RunFolder(Path(shutil.copytree(trained_to_export, folder / "a run, moved=1")))
    (folder / "work").mkdir()
    result = run_script(folder / "work", "train.py", "task=export", f"ckpt_path={run.path}", "export.format=all")
    assert result.status == 0, result.err
    assert "9 images" in result.out
    assert "(valid images of " in result.out
    assert not list((folder / "work").iterdir())
    return {name: run.exported(name, "float32", "model") for name in ("onnx", "pt2")}


def rows_of(folder: str) -> list[dict[str, str]]:
    with Path(folder, "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_predict__gives_the_table_and_the_files_of_the_checkpoint(
    script: Script, trained_to_export: Path, models: dict[str, Path]
) -> None:
    Path("images").mkdir()
    shutil.copytree(trained_to_export.parent / "images" / "red", "images/red")
    Path("images/broken.jpg").write_text("no")
    options = ("source=images", "topk=2", "min_confidence=0.5", "data.batch_size=5")
    expected = script(
        "predict.py", f"ckpt_path={trained_to_export}", "features.precision=32", "output=expected", *options
    )
    assert expected.status == 0, expected.err
    for name, path in models.items():
        found = script("predict.py", f"model={path}", f"output={name}", "annotate=true", *options)
        assert found.status == 0, found.err
        assert found.out == expected.out
        assert {p.name for p in Path(name).iterdir()} == {
            *(MARKER, "predictions.csv", "predictions.jsonl", "annotated", "contact_sheets")
        }
        for row, wanted in zip(rows_of(name), rows_of("expected"), strict=True):
            for column in ("prob_1", "prob_2", "familiar"):
                value = row.pop(column), wanted.pop(column)
                assert value == ("", "") or float(value[0]) == pytest.approx(float(value[1]), abs=1e-4)
            assert row == wanted


def test_predict__with_onnx_imports_nothing_of_pytorch(
    trained_to_export: Path, models: dict[str, Path], tmp_path: Path
) -> None:
    code = f"""
import runpy, sys
for name in {ABSENT}:
    sys.modules[name] = None
sys.argv[0] = {str(ROOT / "predict.py")!r}
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    arguments = [f"model={models['onnx']}", f"source={trained_to_export.parent / 'images'}", "output=out", "sort=copy"]
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 37
    assert len(list((tmp_path / "out").glob("*/*/*.jpg"))) == 36


def test_python__load_predicts_with_a_file(trained_to_export: Path, models: dict[str, Path]) -> None:
    red = trained_to_export.parent / "images" / "red"
    expected = headstart.load(trained_to_export, accelerator="cpu", precision="32", compile=False).predict(red, topk=1)
    for path in models.values():
        predictor = headstart.load(path, accelerator="cpu")
        assert isinstance(predictor, ExportedPredictor)
        assert predictor.classes == ("blue", "green", "red")
        for found, wanted in zip(predictor.predict(red, topk=1), expected, strict=True):
            assert (found.path, found.classes, found.doubt) == (wanted.path, wanted.classes, wanted.doubt)
            assert found.probabilities == pytest.approx(wanted.probabilities, abs=1e-4)
    with pytest.raises(HeadstartError, match=r"precision: .* is an exported model, in which that is fixed"):
        headstart.load(models["onnx"], precision="32")


def test_python__predictor_exports(trained_to_export: Path, tmp_path: Path) -> None:
    predictor = headstart.load(trained_to_export, accelerator="cpu")
    predictor.export(tmp_path / "red.pt2")
    assert headstart.load(tmp_path / "red.pt2").classes == predictor.classes
    for path, options, sentence in (
        ("a.pth", {}, "a.pth must end in .onnx or .pt2"),
        ("a.pt2", {"precision": "int8"}, "export.precision=int8 needs export.format=onnx"),
        ("a.onnx", {"precision": "int4"}, "export.precision=int4 is invalid: it must be one of float32, float16, int8"),
    ):
        with pytest.raises(HeadstartError, match=sentence):
            predictor.export(path, **options)


def test_int8_and_any_size__of_the_runs_own_images(script: Script, trained_to_export: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained_to_export, tmp_path / "run")
    for options, name in (
        (("export.precision=int8",), "model.int8.onnx"),
        (("export.input=any", f"export.path={tmp_path / 'any.onnx'}"), "../any.onnx"),
    ):
        result = script("train.py", "task=export", f"ckpt_path={run}", *options)
        assert result.status == 0, result.err
        found = script("predict.py", f"model={run / name}", f"source={trained_to_export.parent / 'images' / 'red'}")
        assert found.status == 0, found.err
        assert len(found.out.splitlines()) == 12


def test_lone_checkpoint__is_exported_beside_it(script: Script, trained_to_export: Path, tmp_path: Path) -> None:
    lone = shutil.copy(trained_to_export / "checkpoints" / "best.ckpt", tmp_path / "lone.ckpt")
    result = script("train.py", "task=export", f"ckpt_path={lone}", "export.format=pt2")
    assert result.status == 0, result.err
    assert (tmp_path / "model.pt2").is_file()
    assert "drawn images, because " in result.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("task=export", "task=export needs ckpt_path=RUN, the folder of a run"),
        ("task=export ckpt_path=a.ckpt export.format=torchscript", "export.format=torchscript is invalid"),
        ("task=export ckpt_path=a.ckpt export.format=pt2 export.precision=int8", "export.precision=int8 needs export"),
        (
            "task=export ckpt_path=a.ckpt export.format=all export.input=any",
            "export.input=any needs export.format",
        ),
        ("task=export ckpt_path=a.ckpt export.format=all export.path=a.onnx", "export.path names one file"),
        ("task=export ckpt_path=a.ckpt export.path=a.pt2", "export.path=a.pt2 must end in .onnx"),
    ],
)
def test_export__rejected_in_one_sentence(script: Script, arguments: str, sentence: str) -> None:
    Path("a.ckpt").write_text("no checkpoint")
    result = script("train.py", *arguments.split(), *SMALL[3:5])
    assert result.status == 1
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert [path.name for path in Path.cwd().iterdir()] == ["a.ckpt"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            "source=b",
            "ckpt_path is missing: ckpt_path=RUN, the folder of a run",
        ),
        ("source=b", "or model=FILE.onnx|FILE.pt2"),
        ("model=a.onnx", "source is missing"),
        ("model=a.onnx ckpt_path=c.ckpt source=b", "ckpt_path=c.ckpt and model=a.onnx exclude each other"),
        ("model=a.xyz source=b", "model=a.xyz is not a file of task=export, which end in .onnx or .pt2"),
        ("model=a.onnx source=.", "model=a.onnx does not exist"),
        ("model=a.onnx source=b explain=true output=o", "explain=true needs a checkpoint: model=a.onnx cannot do that"),
        ("model=a.onnx source=b labelled=true output=o", "labelled=true needs a checkpoint"),
        ("model=a.onnx source=b views=2", "views=2 needs a checkpoint"),
        ("model=a.onnx source=b features.precision=32", "features.precision=32 needs a checkpoint"),
        ("a.onnx photo.jpg", "source=photo.jpg is not a file or folder"),
    ],
)
def test_predict__rejected_in_one_sentence(
    script: Script, trained_to_export: Path, arguments: str, sentence: str
) -> None:
    if "source=." in arguments:
        shutil.copy(trained_to_export.parent / "images" / "red" / "0.jpg", "0.jpg")
    result = script("predict.py", *arguments.split())
    assert result.status == 1
    assert sentence in result.err
    assert result.err.count("\n") == 1
