"""How many times as fast as uncompiled code the compiled code of a backbone is: measured once per machine, and kept.

Of some networks it is slower, such as of Swin Transformers on CPUs.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import suppress

from headstart.files import cache_folder, read_json, write_json

FILE = "compiled_speed.json"
REPEATS = 3


def measured_speed(key: str) -> float | None:
    """What was measured on this machine for `key`, which names everything that it depends on; None: nothing was."""
    return _read().get(key)


def keep_speed(key: str, speed: float) -> None:
    """For later processes. Without a cache folder, it is measured again next time."""
    with suppress(OSError):
        write_json(cache_folder() / FILE, _read() | {key: round(speed, 3)})


def measure_speed(key: str, uncompiled: Callable[[], object], compiled: Callable[[], object]) -> float:
    """Times both, in turn, and keeps the ratio."""
    pairs = [(_seconds(uncompiled), _seconds(compiled)) for _ in range(REPEATS)]
    speed = statistics.median(slow / fast for slow, fast in pairs)
    keep_speed(key, speed)
    return speed


def _read() -> dict[str, float]:
    try:
        found = read_json(cache_folder() / FILE)
    except (OSError, ValueError):
        return {}
    return {key: v for key, v in found.items() if isinstance(v, float)} if isinstance(found, dict) else {}


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
