"""Reviewing labels: what is asked, what is written, and who is answered."""

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, SMALL, Script, draw_classes, manifest_of
from fork_server import ForkServer
from local_pages import ask, origin_of

from headstart.config.data import SplitSettings
from headstart.config.train import TrainSettings, check_train, read_record
from headstart.data.corrections import FILE, read_corrections
from headstart.data.preprocessing import Array
from headstart.errors import HeadstartError
from headstart.pipeline import review_server
from headstart.reviewing import queue
from headstart.reviewing.local import ReviewServer
from headstart.reviewing.queue import Review
from headstart.run_folder import RunFolder

RULE = SplitSettings(6, 3)


def review_of(root: Path, folder: Path, features: dict[str, Array] | None = None) -> Review:
    return Review(RunFolder(folder), manifest_of(root, RULE), features, root / FILE)


@pytest.fixture
def review(flat: Path, tmp_path: Path) -> Review:
    """A review of a run whose report lists two labels, and whose predictions have two confident mistakes."""
    run = tmp_path / "run"
    (run / "report").mkdir(parents=True)
    (run / "report" / "report.json").write_text('{"label_issues": {"listed": 2}}')
    (run / "report" / "suspicious.csv").write_text(
        "rank,path,split,label,suggested,belief\n1,red/0.jpg,train,red,blue,0.1\n2,red/9.jpg,test,red,green,0.2\n"
        "3,red/2.jpg,train,red,blue,0.3\n"
    )
    header = "path,label,prediction,probability,rank of true class\n"
    (run / "test_predictions.csv").write_text(
        f"{header}red/9.jpg,red,green,0.99,2\nblue/9.jpg,blue,red,0.95,2\nblue/10.jpg,blue,red,0.6,2\n"
    )
    (run / "audit.json").write_text('{"findings": [{"kind": "duplicate", "paths": ["blue/1.jpg", "gone.jpg"]}]}')
    return review_of(flat, run)


def test_items__by_kind_each_image_once(review: Review) -> None:
    items = [(item["path"], item["suggested"], item["reasons"]) for item in review.state()["items"]]
    assert items == [
        ("red/0.jpg", "blue", ("the label is probably wrong (rank 1)",)),
        ("red/9.jpg", "green", ("the label is probably wrong (rank 2)", "predicted as green (99%)")),
        ("blue/9.jpg", "red", ("predicted as red (95%)",)),
        ("blue/1.jpg", "", ("duplicate",)),
    ]


def test_decisions__are_written_at_once(review: Review, flat: Path) -> None:
    indices = [item.index for item in review.items]
    review.decide(indices[0], "relabel", "blue")
    review.decide(indices[1], "keep")
    review.decide(indices[2], "leave_out")
    review.decide(indices[0], "relabel", "green")
    review.decide(indices[2], "undo")
    found = [(c.path, c.action, c.label, c.run) for c in read_corrections(flat / FILE)]
    assert sorted(found) == [("red/0.jpg", "relabel", "green", "run"), ("red/9.jpg", "keep", "", "run")]
    assert all(len(c.sha256) == 64 and c.when for c in read_corrections(flat / FILE))


def test_another_review__does_not_ask_again(review: Review, flat: Path, tmp_path: Path) -> None:
    (flat / FILE).write_text("path,action,label\nblue/5.jpg,leave_out,\n")
    review.decide(review.items[0].index, "keep")
    again = review_of(flat, tmp_path / "run")
    assert [item["decision"] for item in again.state()["items"]] == [{"action": "keep", "label": ""}, None, None, None]
    assert {c.path for c in read_corrections(flat / FILE)} == {"blue/5.jpg", "red/0.jpg"}


def test_error__a_file_of_the_users_own_is_not_overwritten(flat: Path, tmp_path: Path) -> None:
    (flat / FILE).write_text("invoice;amount\n")
    with pytest.raises(HeadstartError, match=r"corrections\.csv has no column path, action"):
        review_of(flat, tmp_path)
    assert (flat / FILE).read_text() == "invoice;amount\n"


@pytest.mark.parametrize("given", [(-1, "keep"), (36, "keep"), (0, "delete"), (0, "relabel", "purple"), (0, "relabel")])
def test_error__what_is_not_known_is_not_written(review: Review, flat: Path, given: tuple[Any, ...]) -> None:
    with pytest.raises(HeadstartError):
        review.decide(*given)
    assert not (flat / FILE).exists()


def test_similar__are_the_nearest_of_a_class(flat: Path, tmp_path: Path) -> None:
    manifest = manifest_of(flat, RULE)
    generator = np.random.default_rng(0)
    features = {name: generator.normal(size=(len(split), 8)) for name, split in manifest.splits.items()}
    review = review_of(flat, tmp_path, features)
    rows = np.concatenate(list(features.values()))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = review.similar(0, "green")
    labels = [label for split in manifest.splits.values() for label in split.labels]
    own = [index for index, label in enumerate(labels) if manifest.classes[label] == "green" and index != 0]
    assert found == sorted(own, key=lambda index: -rows[index] @ rows[0])[:5]
    assert review.similar(0, "purple") == []


# The server.


@pytest.fixture
def server(review: Review) -> Iterator[ReviewServer]:
    server = ReviewServer(review).serve_in_thread()
    yield server
    server.close()


def decide(server: ReviewServer, index: Any, action: str, label: str = "", **headers: str) -> int:
    body = {"index": index, "action": action, "label": label}
    return ask(f"{server.address}decisions", body, **({"Origin": origin_of(server)} | headers))[0]


def test_server__answers_those_who_know_the_token(server: ReviewServer) -> None:
    status, content, headers = ask(server.address)
    assert status == 200
    assert b"red/0.jpg" in content
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    origin = origin_of(server)
    for path in ("/", "/images/0", "/wrong/", "/wrong/images/0", "/decisions"):
        assert ask(origin + path)[0] == 404, path


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", ""])
def test_server__refuses_other_hosts(server: ReviewServer, host: str) -> None:
    assert ask(server.address, Host=host)[0] == 400
    assert decide(server, 0, "keep", Host=host) == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1"])
def test_server__refuses_other_origins(server: ReviewServer, review: Review, origin: str) -> None:
    assert decide(server, 0, "keep", Origin=origin) == 403
    assert ask(f"{server.address}decisions", {"index": 0, "action": "keep"})[0] == 403
    assert not review.file.exists()


def test_server__serves_images_of_the_run_alone(server: ReviewServer, review: Review) -> None:
    status, content, headers = ask(f"{server.address}images/0")
    assert (status, content[:3], headers["Content-Type"]) == (200, b"\xff\xd8\xff", "image/jpeg")
    for path in (
        "images/36",
        "images/-1",
        "images/x",
        "images/..%2f..%2fetc%2fpasswd",
        "images/../../etc/passwd",
        "similar/99",
    ):
        assert ask(f"{server.address}{path}")[0] == 404, path
    (review.manifest.root / review.paths[1]).unlink()
    assert ask(f"{server.address}images/1")[0] == 404


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{", 400), (b"[]", 400), (b"1", 400), ({"index": 0}, 400), ({"index": "x", "action": "keep"}, 400),
     ({"index": 99, "action": "keep"}, 400), ({"index": 0, "action": "relabel", "label": "x" * 5000}, 413)],
)  # fmt: skip
def test_server__refuses_what_is_no_decision(server: ReviewServer, review: Review, body: Any, status: int) -> None:
    assert ask(f"{server.address}decisions", body, Origin=origin_of(server))[0] == status
    assert not review.file.exists()


def test_page__texts_are_no_markup(tmp_path: Path) -> None:
    root = draw_classes(tmp_path / "images", 12)
    (root / "red").rename(root / "<script>alert(1)<")
    run = tmp_path / "run"
    run.mkdir()
    path = "<script>alert(1)</3.jpg"
    (run / "audit.json").write_text(json.dumps({"findings": [{"kind": "</script><img src=x>", "paths": [path]}]}))
    server = ReviewServer(review_of(root, run)).serve_in_thread()
    content = ask(server.address)[1].decode()
    server.close()
    assert "alert(1)" in content
    assert "<script>alert" not in content
    assert "<img src=x>" not in content


def test_full_disk__says_so_and_changes_nothing(
    server: ReviewServer, review: Review, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert decide(server, review.items[0].index, "keep") == 200
    before = review.file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(queue, "write_corrections", full)
    body = {"index": review.items[1].index, "action": "keep"}
    status, content, _ = ask(f"{server.address}decisions", body, Origin=origin_of(server))
    assert (status, json.loads(content)["error"]) == (
        507,
        f"{review.file} could not be written: No space left on device",
    )
    assert review.file.read_bytes() == before
    assert review.state()["items"][1]["decision"] is None


@pytest.mark.slow
def test_two_tabs_and_two_reviews__lose_nothing(review: Review, flat: Path, tmp_path: Path) -> None:
    servers = [ReviewServer(of).serve_in_thread() for of in (review, review_of(flat, tmp_path / "run"))]
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda index: decide(servers[index % 2], index, "keep"), range(len(review.paths))))
    for server in servers:
        server.close()
    assert statuses == [200] * len(review.paths)
    assert sorted(c.path for c in read_corrections(flat / FILE)) == sorted(review.paths)


@pytest.fixture
def run(script: Script, flat: Path, tmp_path: Path) -> Path:
    options = (f"data.root={flat}", *SMALL, "data.split.train=6", "data.split.valid=3", "trainer.max_epochs=1")
    result = script("train.py", *options, f"hydra.run.dir={tmp_path / 'trained'}")
    assert result.status == 0, result.err
    return tmp_path / "trained"


class Program:
    """`headstart review`, as a user starts it."""

    def __init__(self, forks: ForkServer, run: Path) -> None:
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        command = [str(ROOT / "tests" / "headstart_command.py"), "review", str(run), "--no-browser"]
        self.process = forks.start(*command, folder=run.parent, environment=environment)
        line = next(line for line in self.process.stdout if line.startswith("review: "))
        self.address = line.split()[1]
        # Nothing waits for a full pipe.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()


def test_program__killed_at_any_moment_has_lost_and_doubled_nothing(forks: ForkServer, run: Path, flat: Path) -> None:
    program = Program(forks, run)
    answered: set[int] = set()
    asked: list[int] = []

    def clicks() -> None:
        for number in range(1000):
            asked.append(number % 36)
            body = {"index": number % 36, "action": "keep"}
            try:
                if ask(f"{program.address}decisions", body, Origin=program.address.rsplit("/", 2)[0])[0] == 200:
                    answered.add(number % 36)
            except OSError:
                return
            if number == 80:
                program.process.send_signal(signal.SIGKILL)

    clicks()
    assert program.process.wait() == -signal.SIGKILL
    rows = read_corrections(flat / FILE)
    assert len({c.sha256 for c in rows}) == len(rows) == len(answered) == 36
    # What is left beside the file is no image, and no correction.
    assert all(path.suffix in (".csv", ".tmp") for path in flat.iterdir() if path.is_file())


def test_program__writes_where_it_is_told_to(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    server = review_server(settings_of_run(run, file))
    server.serve_in_thread()
    assert decide(server, 0, "keep") == 200
    # Whatever the backbone: by the features that the run has stored.
    assert len(json.loads(ask(f"{server.address}similar/0?class=red")[1])) == 5
    server.close()
    assert len(read_corrections(file)) == 1


def settings_of_run(run: Path, file: Path) -> TrainSettings:
    settings = check_train(read_record(RunFolder(run)))
    return replace(settings, ckpt_path=str(RunFolder(run).best), data=replace(settings.data, corrections=str(file)))


def test_program__ends_with_ctrl_c_and_the_next_training_uses_the_decisions(
    forks: ForkServer, run: Path, flat: Path, script: Script, tmp_path: Path
) -> None:
    program = Program(forks, run)
    state = ask(program.address)[1].decode()
    assert '["blue", "green", "red"]' in state
    body = {"index": 0, "action": "relabel", "label": "red"}
    assert ask(f"{program.address}decisions", body, Origin=program.address.rsplit("/", 2)[0])[0] == 200
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait() == 0
    again = tmp_path / "again"
    options = (f"data.root={flat}", *SMALL, "data.split.train=6", "data.split.valid=3")
    result = script("train.py", *options, f"hydra.run.dir={again}")
    assert result.status == 0, result.err
    assert f"{flat / FILE}: labels corrected: 1; images left out: 0" in result.out
    (path,) = (c.path for c in read_corrections(flat / FILE))
    assert f"{path},red,train" in RunFolder(again).split.read_text()


def test_error__without_the_extra(run: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "headstart.reviewing.local")
    result = script("train.py", "task=review", f"ckpt_path={run}")
    assert result.status == 1
    assert result.err == 'error: task=review needs uvicorn: pip install "headstart[review]"\n'
