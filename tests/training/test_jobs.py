"""Processes of a job that wait for each other."""

import os
import signal
import socket
from pathlib import Path

import pytest
from fork_server import ForkServer, Process

from headstart.errors import HeadstartError
from headstart.machine import Place
from headstart.training import jobs

JOINS = """
from headstart.program import ended_by_signals
from headstart.training import jobs

jobs.SILENT = 0.3
try:
    with ended_by_signals():
        jobs.join()
    print("joined")
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.fixture
def port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start(forks: ForkServer, folder: Path, port: int, rank: int) -> Process:
    (folder / "joins.py").write_text(JOINS)
    place = {"WORLD_SIZE": "2", "RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return forks.start(str(folder / "joins.py"), folder=folder, environment=os.environ | place)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("rank", "who"), [(0, "1 of 2 processes have come"), (1, "it does not answer")])
def test_waiting__says_for_whom_and_ends_by_a_signal(
    forks: ForkServer, tmp_path: Path, port: int, number: signal.Signals, rank: int, who: str
) -> None:
    process = start(forks, tmp_path, port, rank)
    line = process.stderr.readline()
    assert line.startswith(f"process {rank + 1} of 2 waits for the others at 127.0.0.1:{port}: {who}; ")
    process.send_signal(number)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert "Traceback" not in err


def test_all_come__in_either_order(forks: ForkServer, tmp_path: Path, port: int) -> None:
    late = start(forks, tmp_path, port, 1)
    late.stderr.readline()
    first = start(forks, tmp_path, port, 0)
    assert [process.communicate(timeout=30)[0] for process in (late, first)] == ["joined\n"] * 2


def test_waiting__has_an_end(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("MASTER_PORT", str(port))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setattr(jobs, "LONGEST_START", 0.2)
    with pytest.raises(HeadstartError, match=f"have not met at 127.0.0.1:{port} .*: it does not answer; "):
        jobs._when_all_have_come(Place(1, 2))


@pytest.mark.parametrize("value", ["abc", "999999", "-1"])
def test_an_invalid_port__is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MASTER_PORT", value)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(HeadstartError, match=f"cannot meet at 127.0.0.1:{value}: "):
        jobs._when_all_have_come(Place(1, 2))
