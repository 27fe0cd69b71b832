import pytest

from headstart import machine


def test_startup_seconds__only_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("headstart.machine.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(machine, "_programs", [])
    monkeypatch.setattr(machine, "_IMPORTED", 90.0)
    assert machine.startup_seconds() is None
    machine.program_starts()
    assert machine.startup_seconds() == 10
    # Of a second one in the same process, imports are no part.
    machine.program_starts()
    now[0] = 103.0
    assert machine.startup_seconds() == 3
