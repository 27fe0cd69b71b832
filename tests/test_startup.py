import pytest

from headstart import processes


def test_startup_seconds__only_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("headstart.processes.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(processes, "_programs", [])
    monkeypatch.setattr(processes, "_IMPORTED", 90.0)
    assert processes.startup_seconds() is None
    processes.program_starts()
    assert processes.startup_seconds() == 10
    # Of a second one in the same process, imports are no part.
    processes.program_starts()
    now[0] = 103.0
    assert processes.startup_seconds() == 3
