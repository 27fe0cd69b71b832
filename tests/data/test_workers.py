import time

import pytest

from headstart.data.workers import map_pictures


def test_map_pictures__in_order() -> None:
    assert map_pictures(lambda n: n * n, range(50)) == [n * n for n in range(50)]


def test_map_pictures__after_an_error_nothing_goes_on() -> None:
    done: list[int] = []

    def work(number: int) -> None:
        if number == 0:
            raise OSError("no")
        time.sleep(0.05)
        done.append(number)

    with pytest.raises(OSError, match="no"):
        map_pictures(work, range(200))
    before = len(done)
    time.sleep(0.2)
    assert len(done) == before < 100
