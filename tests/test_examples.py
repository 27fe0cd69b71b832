"""Every example in docs/python.md, examples/ and the notebook runs."""

import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import ROOT, draw_classes
from PIL import Image

import headstart

pytestmark = pytest.mark.slow
EXAMPLES = ROOT / "examples"


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `photos` that the examples speak of; the current folder is empty besides."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return draw_classes(Path("photos").absolute(), 12)


@pytest.fixture
def example(trained_to_export: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run, which the environment variable RUN names."""
    monkeypatch.setenv("RUN", str(trained_to_export))
    return trained_to_export


# Images so small that it takes seconds, and weights that need no download.
SMALLER = (
    *("model.weights=null", "data.resize_size=40", "data.image_size=32"),
    *("data.num_workers=0", "features.compile=false"),
)


FEW_SHAPES = (
    '"data.per_class=14", "data.split.train=8", "data.split.valid=3", "features.views=2", '
    '"features.compile=false", "report=none", '
)


def run_blocks(page: Path, *options: str, **replacements: str) -> dict[str, object]:
    """Runs a page's Python with these options, and returns its names."""
    code = textwrap.dedent("".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)))
    for old, new in replacements.items():
        code = code.replace(old, new)
    for function in ("headstart.train(", "headstart.sweep("):
        code = code.replace(function, f"{function}{str((*SMALLER, *options))[1:-1]}, ")
    names: dict[str, object] = {}
    exec(compile(code, page.name, "exec"), names)
    return names


def test_documentation__its_python_runs() -> None:
    names = run_blocks(ROOT / "docs" / "python.md", "report=none")
    assert names["features"].shape == (36, 512)  # type: ignore[attr-defined]
    assert len(names["board"].rows) == 2  # type: ignore[attr-defined]


def test_readme__its_python_runs(photos: Path) -> None:
    shutil.copy(photos / "red" / "0.jpg", "photo.jpg")
    names = run_blocks(ROOT / "README.md", DIR="photos", **{"epochs=20": "epochs=2"})
    assert names["run"].report.is_file()  # type: ignore[attr-defined]


def test_fastapi__answers(example: Path, photos: Path) -> None:
    for package in ("httpx", "multipart"):
        pytest.importorskip(package)
    testclient = pytest.importorskip("fastapi.testclient")
    client = testclient.TestClient(runpy.run_path(str(EXAMPLES / "fastapi_app.py"))["app"])
    image = next((photos / "red").iterdir())
    answer = client.post("/predict", files={"file": image.read_bytes()})
    assert answer.status_code == 200
    assert set(answer.json()["classes"]) == {"blue", "green", "red"}
    assert client.post("/predict", files={"file": b"no image"}).status_code == 422


def test_gradio__classifies(example: Path) -> None:
    pytest.importorskip("gradio")
    classify = runpy.run_path(str(EXAMPLES / "gradio_app.py"))["classify"]
    Image.new("RGB", (60, 50), "red").save("image.png")
    classes, picture = classify("image.png")
    assert sum(classes.values()) == pytest.approx(1)
    assert picture.shape == (32, 32, 3)


def test_onnx_client__gives_what_predict_gives(
    example: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript")
    model, paths = tmp_path / "model.onnx", sorted((photos / "red").iterdir())
    headstart.load(example, accelerator="cpu").export(model)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["onnx_client.py", str(model), *map(str, paths)])
    runpy.run_path(str(EXAMPLES / "onnx_client.py"), run_name="__main__")
    found = headstart.load(model).predict(photos / "red")
    lines = [
        f"{p.path.absolute()} {p.label} {p.probabilities[0]:.1%} {f'({p.doubt})' if p.doubt else ''}" for p in found
    ]
    assert capsys.readouterr().out.splitlines() == lines


def test_notebook__runs(monkeypatch: pytest.MonkeyPatch) -> None:
    # Programs that ran in this process before have set it.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = cell.source.replace('"experiment=quickstart", ', f'"experiment=quickstart", {FEW_SHAPES}')
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(Path.cwd())}})
    client.execute()
    shown = str([cell.get("outputs") for cell in notebook.cells])
    assert "image/png" in shown
    assert "dotted_star" in shown


def test_scripts_have_unix_line_ends_in_every_checkout(tmp_path: Path) -> None:
    """Git for Windows checks text files out with \\r\\n, unless .gitattributes forbids it."""
    scripts = [*EXAMPLES.glob("*.py"), *(ROOT / "scripts").iterdir(), *(ROOT / ".ci").iterdir(), *ROOT.glob("*.py")]
    git = ["git", "-c", "core.autocrlf=true"]
    subprocess.run([*git, "init", "--quiet", tmp_path / "checkout"], check=True)
    for path in (ROOT / ".gitattributes", *scripts):
        copy = tmp_path / "checkout" / path.relative_to(ROOT)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    subprocess.run([*git, "add", "."], cwd=tmp_path / "checkout", check=True)
    for path in scripts:
        (tmp_path / "checkout" / path.relative_to(ROOT)).unlink()
    subprocess.run([*git, "checkout", "--quiet", "--", "."], cwd=tmp_path / "checkout", check=True)
    for path in scripts:
        assert b"\r" not in (tmp_path / "checkout" / path.relative_to(ROOT)).read_bytes(), path
