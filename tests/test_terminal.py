"""What people see in a real terminal: no line repeats or is wider than the terminal, and bars leave nothing behind."""

import shlex
import subprocess
import sys
import textwrap
from collections import Counter
from pathlib import Path

import pytest
from conftest import COLOURS, ROOT, SMALL, Script, draw_classes
from fork_server import ForkServer
from terminal import in_terminal

from headstart.log import wrapped
from headstart.text import columns

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")

# Work that takes a second, with messages meanwhile.
WORK = """
import time
from headstart.log import log, log_to_console
from headstart.log import progress_bar
log_to_console()
for view in range(2):
    with progress_bar("encoding images", 10, later=20) as advance:
        for step in range(10):
            time.sleep(0.1)
            advance(1)
            if step == 7:
                log.info("message %d", view)
                log.warning("warning %d", view)
log.info("done")
"""
SEEN = ["message 0", "warning: warning 0", "message 1", "warning: warning 1", "done"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("work") / "work.py"
    path.write_text(WORK)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "env"),
    [(80, {}), (120, {}), (40, {}), (80, {"NO_COLOR": "1"}), (80, {"TERM": "dumb"}), (80, {"COLUMNS": "abc"})],
    ids=["80", "120", "40", "no-color", "dumb", "odd-columns"],
)
def test_bar__leaves_only_the_messages(work: str, width: int, env: dict[str, str]) -> None:
    screen = in_terminal([work], columns=width, env=env)
    assert screen.status == 0
    assert screen.lines == SEEN
    assert screen.has_cursor
    assert ("encoding images" in screen.raw) == (env.get("TERM") != "dumb")
    assert ("at most 0:0" in screen.raw) == (env.get("TERM") != "dumb" and width >= 80)
    # Not even an emulator is needed to see that nothing is printed line by line.
    assert screen.raw.count("\n") == len(SEEN)


@pytest.mark.slow
def test_bar__in_a_terminal_that_is_made_narrower(work: str) -> None:
    screen = in_terminal([work], columns=100, narrowed_to=70)
    assert screen.lines == SEEN


@pytest.mark.slow
def test_bar__not_where_stderr_is_no_terminal(work: str) -> None:
    code = f"import subprocess, sys; subprocess.run([sys.executable, {work!r}], stderr=subprocess.DEVNULL)"
    screen = in_terminal(["-c", code])
    assert screen.lines == [line for line in SEEN if not line.startswith("warning")]
    assert "encoding" not in screen.raw


@pytest.mark.slow
def test_bar__beside_one_of_lightnings(tmp_path: Path) -> None:
    script = tmp_path / "rich_bar.py"
    script.write_text(
        textwrap.dedent(
            """
            import time
            from rich.progress import Progress
            from rich.console import Console
            from headstart.log import progress_bar
            with Progress(console=Console(stderr=True), transient=True) as bar:
                bar.add_task("rich")
                with progress_bar("encoding images", 10) as advance:
                    for step in range(10):
                        time.sleep(0.1)
                        advance(1)
            print("done")
            """
        )
    )
    screen = in_terminal([str(script)])
    assert [line for line in screen.lines if line] == ["done"]
    assert "encoding" not in screen.raw


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize(
    "line",
    [
        "stopped after epoch 16: no improvement of valid/loss for 5 epochs; best: epoch 11, and so on",
        "to predict: python predict.py 'ckpt_path=logs/a b/c' source=FILE_OR_FOLDER views=4 rows=true",
        "图像 " * 30,
        "  indented " + "word " * 30,
        f"best checkpoint: {'x' * 100}",
    ],
)
def test_wrapped__between_words_and_no_wider(line: str, width: int) -> None:
    found = wrapped(line, width).split("\n")
    assert all(columns(part) <= width or len(part.split()) <= 2 for part in found)
    assert "".join("".join(part.removesuffix(" \\") for part in found).split()) == "".join(line.split())


@pytest.mark.parametrize("width", [30, 60, 80])
def test_wrapped__a_command_can_be_pasted(width: int) -> None:
    arguments = ["python", "predict.py", "ckpt_path=logs/it's a run/$1", "source=FILE_OR_FOLDER", "views=4", "topk=50"]
    text = wrapped(f"to predict: {shlex.join(arguments)}", width)
    pasted = f"python() {{ printf '%s\\n' \"$@\"; }}; {text.removeprefix('to predict: ')}"
    done = subprocess.run(["bash", "-c", pasted], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == arguments[1:]


# A third of the quickstart's images, in fewer views.
FEWER = ("data.per_class=10", "data.split.train=5", "data.split.valid=3", "features.views=2")


def test_quickstart__in_a_terminal(forks: ForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    screen = in_terminal([str(ROOT / "train.py"), "experiment=quickstart", *FEWER], python=forks.python)
    assert screen.status == 0
    assert len(screen.lines) <= 40
    assert screen.raw.count("\n") <= 40
    assert all(count == 1 for line, count in Counter(screen.lines).items() if line)
    assert max(len(line.rpartition("\r")[2]) for line in screen.raw.replace("\r\n", "\n").split("\n")) <= 80
    text = "\n".join(screen.lines)
    assert "no improvement of valid/loss for 5 epochs" in text or "trained all 20 epochs" in text
    assert "test: accuracy " in text
    assert "to predict: python" in text


def test_help__is_a_page(script: Script, trained: Path) -> None:
    # Its settings are options of Hydra's for as long as the process runs.
    assert script("train.py", "task=test", f"ckpt_path={trained}").status == 0
    for name in ("train.py", "predict.py"):
        lines = script(name, "--help").out.splitlines()
        assert 10 < len(lines) <= 45
        assert max(map(len, lines)) <= 80
        assert any("--cfg job" in line for line in lines)


def test_predict__more_than_a_screenful_is_summarized(trained: Path, forks: ForkServer, tmp_path: Path) -> None:
    images = draw_classes(tmp_path / "images", 12)
    (images / "red" / "broken.jpg").write_bytes(b"no image")
    command = [str(ROOT / "predict.py"), f"ckpt_path={trained}", f"source={images}", "accelerator=cpu"]
    lines = in_terminal(command, python=forks.python).lines
    assert any(line.startswith("with an error: 1 image:") for line in lines)
    assert "one row per image: rows=true, or output=DIR for files" in lines
    assert len(lines) < 24
    counts = [line.split() for line in lines if line.startswith("  ") and line.split()[0] in COLOURS]
    assert sum(int(count) for _, count in counts) == 36
    assert in_terminal([*command, "rows=true"], python=forks.python).raw.count("%") == 3 * 36
    few = [*command, f"source={images / 'blue'}/1*.jpg"]
    assert in_terminal(few, python=forks.python).raw.count("%") == 3 * 3


def test_predict__rows_are_for_pipes(script: Script, trained: Path, tmp_path: Path) -> None:
    images = draw_classes(tmp_path / "images", 12)
    piped = script("predict.py", f"ckpt_path={trained}", f"source={images}")
    assert len(piped.out.splitlines()) == 36
    short = script("predict.py", f"ckpt_path={trained}", f"source={images}", "rows=false")
    assert "36 images" in short.out
    assert len(short.out.splitlines()) < 12


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["trainer.max_epochs=2"], "trained all 2 epochs; best: epoch "),
        (["trainer.max_steps=3"], "stopped after epoch 1: trainer.max_steps=3 was reached; best: epoch 1"),
        (
            ["callbacks.early_stopping.stopping_threshold=1000"],
            "stopped after epoch 1: valid/loss is better than stopping_threshold=1000; best: epoch 1",
        ),
        (
            ["callbacks.early_stopping.patience=1", "+callbacks.early_stopping.min_delta=100", "trainer.max_epochs=9"],
            "stopped after epoch 2: no improvement of valid/loss for 1 epoch; best: epoch ",
        ),
        (["model.head=ridge"], "fitted model.head=ridge in closed form"),
        (["trainer.max_time=00:00:00:00", "trainer.min_epochs=1"], "trainer.max_time was reached"),
    ],
    ids=["all", "steps", "threshold", "patience", "ridge", "time"],
)
def test_end__says_why_training_stopped(script: Script, flat: Path, overrides: list[str], says: str) -> None:
    rule = ("data.split.train=6", "data.split.valid=3")
    result = script("train.py", f"data.root={flat}", *SMALL, *rule, *overrides)
    assert result.status == 0, result.err
    assert says in result.out
