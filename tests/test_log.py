import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest

from headstart.log import is_first_process, log, log_to_console, log_to_file
from headstart.machine import VARIABLES

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Messages go to the console of a single process; the logger's state is restored afterwards."""
    for name in (*VARIABLES, "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    handlers, level, propagate = log.handlers, log.level, log.propagate
    log_to_console()
    yield
    log.handlers, log.propagate = handlers, propagate
    log.setLevel(level)


def log_one_of_each() -> None:
    log.debug("hidden")
    log.info("%d classes", 3)
    log.warning("%s is small", "red")
    log.error("no test split")


def test_console__information_to_stdout_warnings_and_errors_to_stderr(capsys: Capture) -> None:
    log_one_of_each()
    out, err = capsys.readouterr()
    assert out == "3 classes\n"
    assert err == "warning: red is small\nerror: no test split\n"


def test_console__set_up_twice_prints_once(capsys: Capture) -> None:
    log_to_console()
    log.info("once")
    assert capsys.readouterr().out == "once\n"


def test_console__streams_that_are_replaced_later(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    stream = StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    log.info("to a notebook")
    assert stream.getvalue() == "to a notebook\n"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "variables",
    [{"RANK": "1", "WORLD_SIZE": "2"}, {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "2"}],
    ids=["torchrun", "srun"],
)
def test_rank__only_the_first_process_writes(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: Capture, tmp_path: Path
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not is_first_process()
    log_one_of_each()
    with log_to_file(tmp_path / "output.txt"):
        log_one_of_each()
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "output.txt").read_text() == ""
    for name in ("RANK", "SLURM_PROCID"):
        monkeypatch.setenv(name, "0")
    assert is_first_process()
    log.info("from rank 0")
    assert capsys.readouterr().out == "from rank 0\n"


def test_file__instead_of_the_console_and_back(capsys: Capture, tmp_path: Path) -> None:
    path = tmp_path / "output.txt"
    path.write_text("of an earlier attempt\n")
    with log_to_file(path):
        log_one_of_each()
        assert path.read_text() == "3 classes\nwarning: red is small\nerror: no test split\n"
    log.info("console")
    assert capsys.readouterr() == ("console\n", "")
    assert "console" not in path.read_text()


def test_file__console_is_back_after_an_error(capsys: Capture, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), log_to_file(tmp_path / "output.txt"):
        raise ValueError("no")
    log.info("console")
    assert capsys.readouterr().out == "console\n"


def test_file__names_that_are_not_utf_8(tmp_path: Path) -> None:
    with log_to_file(tmp_path / "output.txt"):
        log.info("%s", "é caf\udce9")
    assert (tmp_path / "output.txt").read_text(encoding="utf-8") == "é caf\\udce9\n"
