"""How a program ends that is told to."""

import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from headstart.program import ended_by_signals


@pytest.fixture(autouse=True)
def not_ignored() -> Iterator[None]:
    """Sets Python's handlers. A script's background jobs ignore Ctrl-C, and nohup SIGHUP; headstart leaves it so."""
    ours: dict[signal.Signals, Any] = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in ours.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Interrupted:
    """Stands for the lock that a thread waits for; a signal arrives while it is released."""

    def __init__(self, lock: threading.Lock, number: signal.Signals) -> None:
        self._lock, self._number = lock, number

    def release(self) -> None:
        self._lock.release()
        signal.raise_signal(self._number)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (signal.SIGHUP, SystemExit)]
)
def test_ended_by_signals__never_while_a_thread_is_woken(number: signal.Signals, error: type[BaseException]) -> None:
    items: queue.Queue[str] = queue.Queue()
    received: list[str] = []

    def read() -> None:
        while (item := items.get()) != "end":
            received.append(item)

    thread = threading.Thread(target=read, daemon=True)
    with pytest.raises(error), ended_by_signals():  # noqa: PT012
        thread.start()
        while not items.not_empty._waiters:  # type: ignore[attr-defined]
            time.sleep(0.001)
        with items.not_empty:
            waiters = items.not_empty._waiters  # type: ignore[attr-defined]
            waiters[0] = Interrupted(waiters[0], number)
        items.put("first")
        time.sleep(5)
    items.put("end")
    thread.join(5)
    assert received == ["first"]
    assert not thread.is_alive()


def test_ended_by_signals__even_where_a_queue_stays_full() -> None:
    full: queue.Queue[int] = queue.Queue(1)
    full.put(1)
    with pytest.raises(SystemExit), ended_by_signals():  # noqa: PT012
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        full.put(2, timeout=5)


class Destroyed:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


@pytest.mark.slow
def test_ended_by_signals__even_if_one_comes_in_a_destructor(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest's would keep the exception, as if it was on its way.
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: None)
    with pytest.raises(SystemExit) as ended, ended_by_signals():  # noqa: PT012
        Destroyed()
        time.sleep(5)
    assert ended.value.code == 128 + signal.SIGTERM
