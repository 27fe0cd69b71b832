"""The demo: what it answers, to whom, and what it does not do."""

import base64
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import numpy as np
import pytest
import torch
from conftest import ROOT, Script, draw, draw_classes, manifest_of
from fork_server import ForkServer
from local_pages import CHROMIUM, Browser, ask, origin_of
from odd_files import deep_png, exif, jpegs, saved, with_exif
from PIL import Image
from tiny_classifier import CLASSES, tiny_classifier

import headstart
from headstart.config.data import SplitSettings
from headstart.data.images import allowed_pixels
from headstart.predict.predictor import Predictor
from headstart.predict.sources import Prediction
from headstart.predict.write import as_json
from headstart.reviewing import demo
from headstart.reviewing.demo import Demo, DemoServer, TrainingImages, demo_of

WHY = "the images are gone"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny_classifier(), torch.device("cpu"))


@pytest.fixture
def training(flat: Path) -> TrainingImages:
    """Training images with features by chance."""
    manifest = manifest_of(flat, SplitSettings(6, 3))
    split = manifest.splits["train"]
    directions = np.random.default_rng(0).normal(size=(len(split), 6)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return TrainingImages(manifest, list(split.paths), [manifest.classes[label] for label in split.labels], directions)


@pytest.fixture
def server(predictor: Predictor, training: TrainingImages) -> Iterator[DemoServer]:
    server = DemoServer(Demo(predictor, training)).serve_in_thread()
    yield server
    server.close()


def asked(server: DemoServer, content: bytes, query: str = "", **headers: str) -> tuple[int, Any]:
    """The status and the JSON of an answer to an image file."""
    status, answer, _ = ask(f"{server.address}predict{query}", content, **headers)
    return status, json.loads(answer)


def test_predict__says_what_a_line_of_predictions_says(server: DemoServer, predictor: Predictor, flat: Path) -> None:
    for path in (flat / "red" / "0.jpg", flat / "blue" / "3.jpg"):
        status, answer = asked(server, path.read_bytes(), "?topk=2&min_confidence=0.99")
        (expected,) = predictor.predict(path, topk=2, min_confidence=0.99)
        assert status == 200
        assert answer == as_json(expected) | {"path": None}
    assert [len(asked(server, path.read_bytes(), f"?topk={topk}")[1]["predictions"]) for topk in (1, 3, 9)] == [1, 3, 3]


def files() -> dict[str, bytes]:
    """Image files that are read in their own way."""
    palette, frames = io.BytesIO(), io.BytesIO()
    Image.new("P", (30, 20), 3).save(palette, "PNG", transparency=3)
    pages = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    pages[0].save(frames, "GIF", save_all=True, append_images=pages[1:])
    cmyk, gray = io.BytesIO(), io.BytesIO()
    Image.new("CMYK", (40, 30), (200, 10, 60, 20)).save(cmyk, "JPEG")
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(gray, "PNG")
    deep = np.random.default_rng(0).integers(0, 65536, (30, 40, 3)).astype(np.uint16)
    damaged = dict(jpegs())["MPO garbage"]
    return {
        **{"rotated": with_exif("JPEG", exif()), "damaged metadata": damaged, "webp": saved("WEBP")},
        **{"palette": palette.getvalue(), "animated": frames.getvalue(), "CMYK": cmyk.getvalue()},
        **{"16 bits": gray.getvalue(), "16 bits per channel": deep_png(deep)},
    }


@pytest.mark.parametrize("name", files())
def test_predict__reads_a_file_as_predict_does(
    server: DemoServer, predictor: Predictor, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "image"
    path.write_bytes(files()[name])
    (expected,) = predictor.predict(path)
    assert expected.error is None
    assert asked(server, path.read_bytes()) == (200, as_json(expected) | {"path": None})
    (again,) = predictor.predict(path.read_bytes())
    assert (again.probabilities, again.familiarity) == (expected.probabilities, expected.familiarity)


def test_predict__explains_and_finds_similar_images(
    server: DemoServer, predictor: Predictor, training: TrainingImages, flat: Path
) -> None:
    content = (flat / "red" / "0.jpg").read_bytes()
    _, answer = asked(server, content, "?explain=true")
    for key in ("seen", "explanation"):
        kind, _, data = answer[key].partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(data))).size == (16, 16)
    features = predictor.embed(content)[0]
    similarity = training.directions @ features / np.linalg.norm(features)
    expected = sorted(range(len(similarity)), key=lambda row: -similarity[row])[: demo.NEAREST]
    assert [found["image"] for found in answer["nearest"]] == [f"images/{row}" for row in expected]
    for found, row in zip(answer["nearest"], expected, strict=True):
        assert found["path"] == training.paths[row]
        assert found["label"] == found["path"].partition("/")[0]
        assert found["similarity"] == pytest.approx(similarity[row], abs=1e-4)


def test_images__are_those_of_the_training_by_number(server: DemoServer, training: TrainingImages, flat: Path) -> None:
    status, content, headers = ask(f"{server.address}images/0")
    assert (status, content[:3], headers["Content-Type"]) == (200, b"\xff\xd8\xff", "image/jpeg")
    count = len(training.paths)
    for name in (count, -1, "x", "..%2f..%2fetc%2fpasswd", "../../etc/passwd", 10**30):
        assert ask(f"{server.address}images/{name}")[0] == 404, name
    draw(flat / training.paths[1], (1, 2, 3), 0)
    (flat / training.paths[2]).unlink()
    assert [ask(f"{server.address}images/{number}")[0] for number in (1, 2)] == [404, 404]


def test_without_training_images__says_why(predictor: Predictor, flat: Path) -> None:
    server = DemoServer(Demo(predictor, WHY)).serve_in_thread()
    assert f"Nearest training images are left out: {WHY}." in ask(server.address)[1].decode()
    assert asked(server, (flat / "red" / "0.jpg").read_bytes(), "?explain=true")[1]["nearest"] == []
    assert ask(f"{server.address}images/0")[0] == 404
    server.close()


def test_server__answers_those_who_know_the_token(server: DemoServer, flat: Path) -> None:
    status, content, headers = ask(server.address)
    assert status == 200
    assert f"{len(CLASSES)} classes" in content.decode()
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    image = (flat / "red" / "0.jpg").read_bytes()
    for path, body in (("/", None), ("/predict", image), ("/wrong/predict", image), ("/images/0", None)):
        assert ask(origin_of(server) + path, body)[0] == 404, path


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1", ""])
def test_server__refuses_pages_from_elsewhere(server: DemoServer, flat: Path, origin: str) -> None:
    image = (flat / "red" / "0.jpg").read_bytes()
    assert asked(server, image, Origin=origin) == (403, {"error": "this page is not the demo's"})
    assert ask(f"{server.address}predict", image, Host="evil.example")[0] == 400
    assert asked(server, image, Origin=origin_of(server))[0] == 200
    assert asked(server, image)[0] == 200, "a program that is no browser"


@pytest.mark.parametrize(
    "query",
    ["topk=0", "topk=x", "topk=-1", "topk=" + "9" * 5000, "min_confidence=2", "min_confidence=nan", "explain=maybe"],
)
def test_error__options_that_predict_does_not_have(server: DemoServer, query: str) -> None:
    status, answer = asked(server, saved("PNG"), f"?{query}")
    assert (status, answer["error"].partition(",")[0]) == (400, "topk must be a positive integer")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "the file cannot be read as an image: the file is empty"),
        (b"hello", "the file cannot be read as an image: its content is not a known image format"),
        (b"<script>alert(1)</script>", "the file cannot be read as an image: its content is not a known image format"),
        (saved("JPEG")[:-400], "the file cannot be read as an image: image file is truncated"),
    ],
)
def test_error__no_image(server: DemoServer, content: bytes, sentence: str) -> None:
    status, answer = asked(server, content, "?explain=true")
    assert status == 422
    assert answer["error"].startswith(sentence)
    assert asked(server, saved("PNG"))[0] == 200, "the next one is predicted"


def test_error__too_many_pixels(server: DemoServer) -> None:
    with allowed_pixels(1500):
        status, answer = asked(server, saved("PNG"))
    assert status == 422
    assert answer["error"].endswith("which looks like a decompression bomb; data.max_pixels=2400 allows them")


def test_error__too_many_bytes(server: DemoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MOST_BYTES", 100_000)
    too_large = (413, {"error": "the file has more than 0.1 MB"})
    assert asked(server, bytes(100_001)) == too_large
    assert asked(server, bytes(5_000_000)) == too_large
    assert asked(server, bytes(100_000))[0] == 422
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=20)
    parts = (bytes(50_000) for _ in range(100))
    connection.request("POST", f"{urlsplit(server.address).path}predict", parts, encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())) == too_large


class Patient:
    """A predictor that takes its time, and counts."""

    classes = CLASSES

    def __init__(self) -> None:
        self.goes_on, self.lock = threading.Event(), threading.Lock()
        self.begun, self.running, self.most = 0, 0, 0

    def predict(self, content: bytes, **options: Any) -> list[Prediction]:
        with self.lock:
            self.begun, self.running = self.begun + 1, self.running + 1
            self.most = max(self.most, self.running)
        assert self.goes_on.wait(20)
        time.sleep(0.01)
        with self.lock:
            self.running -= 1
        return [Prediction(Path("0"), (content.decode(),), (1.0,))]


@pytest.fixture
def patient() -> Patient:
    return Patient()


@pytest.fixture
def of_patient(patient: Patient) -> Iterator[DemoServer]:
    server = DemoServer(Demo(cast(Any, patient), WHY)).serve_in_thread()
    yield server
    server.close()


@pytest.mark.slow
def test_time__one_that_takes_too_long_is_answered_and_the_page_does_not_wait(
    patient: Patient, of_patient: DemoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "SECONDS", 0.5)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: asked(of_patient, b"ant"), range(2)))
    assert answers == [(504, {"error": "it took more than 0.5 seconds"})] * 2
    assert ask(of_patient.address)[0] == 200
    assert patient.running == 1
    monkeypatch.setattr(demo, "SECONDS", 20)
    patient.goes_on.set()
    assert asked(of_patient, b"bee")[1]["predictions"] == [{"label": "bee", "prob": 1.0}]
    assert patient.begun == 2, "the one that waited for its turn was never begun"


@pytest.mark.slow
def test_several_at_once__each_gets_its_own_answer(patient: Patient, of_patient: DemoServer) -> None:
    patient.goes_on.set()
    names = [f"class {number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: asked(of_patient, name.encode()), names))
    assert [answer["predictions"][0]["label"] for _, answer in answers] == names
    assert patient.most == 1


def test_upload_that_breaks_off__is_forgotten(server: DemoServer, capfd: pytest.CaptureFixture[str]) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.address).netloc, timeout=20)
    connection.putrequest("POST", f"{urlsplit(server.address).path}predict")
    connection.putheader("Content-Length", "1000000")
    connection.endheaders(bytes(1000))
    connection.close()
    assert asked(server, saved("PNG"))[0] == 200
    assert "Traceback" not in capfd.readouterr().err


# As a user starts it.


def test_demo__of_a_run_finds_the_image_itself(trained: Path, tmp_path: Path, messages: list[str]) -> None:
    served = headstart.demo(trained, accelerator="cpu", compile=False)
    split = (trained / "split.csv").read_text().splitlines()
    path = next(row.partition(",")[0] for row in split if row.endswith(",train"))
    _, answer = asked(served, (trained.parent / "images" / path).read_bytes(), "?explain=true")
    served.close()
    assert answer["nearest"][0]["path"] == path
    assert answer["nearest"][0]["similarity"] == pytest.approx(1, abs=1e-3)
    assert messages[-1].endswith("test images")
    lone = tmp_path / "lone.ckpt"
    lone.write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes())
    assert demo_of(lone, accelerator="cpu").state()["no_training_images"] == (
        "the checkpoint is not in the folder of its run"
    )
    assert messages[-1] == "without the nearest training images: the checkpoint is not in the folder of its run"


def test_program__says_where_it_is_and_ends_with_ctrl_c(forks: ForkServer, trained: Path, tmp_path: Path) -> None:
    command = [str(ROOT / "tests" / "headstart_command.py"), "demo", str(trained), "--no-browser"]
    process = forks.start(*command, folder=tmp_path, environment=os.environ | {"PYTHONUNBUFFERED": "1"})
    line = next(line for line in process.stdout if line.startswith("demo: "))
    curl = ["curl", "--silent", "--data-binary", f"@{trained.parent / 'images' / 'red' / '0.jpg'}"]
    answer = subprocess.run([*curl, f"{line.split()[1]}predict"], capture_output=True, check=True)
    assert len(json.loads(answer.stdout)["predictions"]) == 3
    process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    assert not list(tmp_path.iterdir())


def test_error__without_the_extra(trained: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    for name in ("demo", "local"):
        monkeypatch.delitem(sys.modules, f"headstart.reviewing.{name}")
    result = script("train.py", "task=demo", f"ckpt_path={trained}")
    assert result.status == 1
    assert result.err == 'error: task=demo needs uvicorn: pip install "headstart[review]"\n'


# In a browser.

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
@pytest.mark.parametrize("width", [1200, 390])
def test_page__takes_an_image_in_every_way(
    predictor: Predictor, training: TrainingImages, tmp_path: Path, width: int
) -> None:
    labels = [HOSTILE] * len(training.labels)
    hostile = TrainingImages(training.manifest, training.paths, labels, training.directions)
    server, browser = DemoServer(Demo(predictor, hostile)).serve_in_thread(), Browser(tmp_path / "profile", width)
    folder = draw_classes(tmp_path / "new", 3)
    (tmp_path / "text.txt").write_text("no image")
    first = 'document.querySelector("#classes .class span")?.textContent'

    def drop(path: Path) -> None:
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            browser.call("Input.dispatchDragEvent", type=kind, x=100, y=100, data=data)

    def label(path: Path) -> str:
        return str(predictor.predict(path)[0].label)

    try:
        browser.call("Page.enable")
        browser.call("Page.navigate", url=server.address)
        browser.wait_for('document.getElementById("address")?.textContent.endsWith("/predict")')
        root = browser.call("DOM.getDocument")["root"]["nodeId"]
        chooser = browser.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        browser.call("DOM.setFileInputFiles", nodeId=chooser, files=[str(folder / "red" / "0.jpg")])
        browser.wait_for(f"{first} === {json.dumps(label(folder / 'red' / '0.jpg'))}")
        browser.wait_for("[...document.images].every(image => image.complete && image.naturalWidth)")
        assert browser.evaluate('document.querySelectorAll("#nearest figcaption").length') == demo.NEAREST
        assert HOSTILE in browser.evaluate('document.getElementById("nearest").textContent')
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
            "nothing is wider than the window"
        )
        drop(tmp_path / "text.txt")
        error = 'document.getElementById("error").textContent'
        browser.wait_for(f"{error}.endsWith('its content is not a known image format')")
        assert browser.evaluate('getComputedStyle(document.getElementById("result")).display') == "none"
        drop(folder / "blue" / "1.jpg")
        browser.wait_for(f"{first} === {json.dumps(label(folder / 'blue' / '1.jpg'))} && {error} === ''")
        pasted = base64.b64encode((folder / "green" / "2.jpg").read_bytes()).decode()
        browser.evaluate(
            f"""const bytes = Uint8Array.from(atob("{pasted}"), c => c.charCodeAt(0)), data = new DataTransfer();
            document.getElementById("least").value = 100;
            data.items.add(new File([bytes], "pasted.jpg", {{ type: "image/jpeg" }}));
            dispatchEvent(new ClipboardEvent("paste", {{ clipboardData: data }}));"""
        )
        browser.wait_for(f"{first} === {json.dumps(label(folder / 'green' / '2.jpg'))}")
        browser.wait_for('document.getElementById("doubt").textContent !== ""')
    finally:
        browser.close()
        server.close()
