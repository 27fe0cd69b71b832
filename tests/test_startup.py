import pytest

from headstart import startup


def test_startup_seconds__only_of_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("headstart.startup.time.perf_counter", lambda: now[0])
    monkeypatch.setattr(startup, "_programs", [])
    monkeypatch.setattr(startup, "_IMPORTED", 90.0)
    assert startup.startup_seconds() is None
    startup.program_starts()
    assert startup.startup_seconds() == 10
    # Of a second one in the same process, imports are no part.
    startup.program_starts()
    now[0] = 103.0
    assert startup.startup_seconds() == 3
