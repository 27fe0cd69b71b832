import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from headstart.errors import HeadstartError
from headstart.features.store import FeatureStore, Key

KEY = Key("net-train", {"weights": "a", "seed": 0})
SHAPE = (10, 4)
Rows = Callable[[], Iterator[np.ndarray]]


def numbers(view: int = 0) -> np.ndarray:
    return (np.arange(40).reshape(SHAPE) + 100 * view).astype(np.float32)


def rows_of(view: int = 0, calls: list[int] | None = None) -> Rows:
    def rows() -> Iterator[np.ndarray]:
        if calls is not None:
            calls.append(view)
        yield from np.split(numbers(view), [3, 7])

    return rows


def ask(store: FeatureStore, view: int = 0, calls: list[int] | None = None, key: Key = KEY) -> np.ndarray:
    return store.matrix(key, view, shape=SHAPE, dtype="float16", rows=rows_of(view, calls))


def file_of(folder: Path, view: int = 0, key: Key = KEY) -> Path:
    return folder / key.folder / f"view-{view:04}.npy"


def test_matrix__made_once_and_read_as_a_map(tmp_path: Path) -> None:
    calls: list[int] = []
    for _ in range(3):
        found = ask(FeatureStore(tmp_path), calls=calls)
    assert calls == [0]
    assert isinstance(found, np.memmap)
    assert found.dtype == np.float16
    assert not found.flags.writeable
    assert np.array_equal(found, numbers())
    assert json.loads((file_of(tmp_path).parent / "key.json").read_text()) == KEY.values


def test_file__is_an_npy_for_everybody(tmp_path: Path) -> None:
    ask(FeatureStore(tmp_path))
    assert np.array_equal(np.load(file_of(tmp_path)), numbers())


def test_views_and_keys__do_not_mix(tmp_path: Path) -> None:
    store, other = FeatureStore(tmp_path), Key("net-train", {"weights": "b", "seed": 0})
    assert ask(store, 1)[0, 0] == 100
    assert ask(store, 0)[0, 0] == 0
    calls: list[int] = []
    ask(store, 1, calls, key=other)
    assert calls == [1]
    assert file_of(tmp_path, 0).exists()
    assert not file_of(tmp_path, 2).exists()


@pytest.mark.parametrize("harm", ["truncated", "flipped in the data", "flipped in the header", "emptied", "of no use"])
def test_damaged__is_noticed_said_and_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: str) -> None:
    ask(FeatureStore(tmp_path))
    path = file_of(tmp_path)
    content = bytearray(path.read_bytes())
    if harm == "truncated":
        del content[-50:]
    elif harm == "emptied":
        content.clear()
    elif harm == "of no use":
        content[:] = b"x" * len(content)
    else:
        content[10 if "header" in harm else -40] ^= 1
    path.write_bytes(bytes(content))
    calls: list[int] = []
    assert np.array_equal(ask(FeatureStore(tmp_path), calls=calls), numbers())
    assert calls == [0]
    assert f"warning: {path} is damaged; its features are made again" in capsys.readouterr().err


def test_error_while_making__leaves_nothing(tmp_path: Path) -> None:
    def rows() -> Iterator[np.ndarray]:
        yield numbers()[:3]
        raise RuntimeError("no picture")

    with pytest.raises(RuntimeError, match="no picture"):
        FeatureStore(tmp_path).matrix(KEY, 0, shape=SHAPE, dtype="float16", rows=rows)
    assert [path.name for path in (tmp_path / KEY.folder).iterdir()] == ["key.json"]
    assert np.array_equal(ask(FeatureStore(tmp_path)), numbers())


def test_too_few_rows__is_an_error_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="3 rows came, 10 were announced"):
        FeatureStore(tmp_path).matrix(KEY, 0, shape=SHAPE, dtype="float16", rows=lambda: iter([numbers()[:3]]))
    assert not file_of(tmp_path).exists()


def test_too_large_for_float16__is_told(tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match=r"do not fit into float16: set features\.precision=32"):
        FeatureStore(tmp_path).matrix(
            KEY, 0, shape=(1, 1), dtype="float16", rows=lambda: iter([np.array([[1e6]], np.float32)])
        )


def slow_ask(folder: Path, log: Path) -> None:
    def rows() -> Iterator[np.ndarray]:
        with log.open("a") as file:
            file.write("made\n")
        for part in np.split(numbers(), 5):
            time.sleep(0.1)
            yield part

    store = FeatureStore(folder)
    found = store.matrix(KEY, 0, shape=SHAPE, dtype="float16", rows=rows)
    assert np.array_equal(found, numbers())


def test_two_processes__one_makes_the_other_waits(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=slow_ask, args=(tmp_path / "store", log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert log.read_text() == "made\n"


def test_killed_while_making__the_next_one_starts_over_and_cleans_up(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=slow_ask, args=(tmp_path / "store", tmp_path / "log"))
    process.start()
    folder = file_of(tmp_path / "store").parent
    while not list(folder.glob(".view-*.tmp")):
        time.sleep(0.01)
    time.sleep(0.15)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert not file_of(tmp_path / "store").exists()
    assert np.array_equal(ask(FeatureStore(tmp_path / "store")), numbers())
    assert sorted(path.name for path in folder.iterdir()) == ["key.json", "view-0000.npy"]


def test_full_disk__one_sentence_and_nothing_half_written(tmp_path: Path) -> None:
    # A limit on the size of files fails a write as a full disk does, and works for every user.
    program = """
        import resource, signal, sys
        from pathlib import Path
        import numpy as np
        from headstart.errors import HeadstartError
        from headstart.features.store import FeatureStore, Key
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        try:
            FeatureStore(Path(sys.argv[1])).matrix(
                Key("a", {}), 0, shape=(1000, 100), dtype="float16", rows=lambda: iter([np.ones((1000, 100))])
            )
        except HeadstartError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"features.dir={tmp_path} cannot be written (the disk is full)")
    assert "features.cache=false" in done.stdout
    assert not list(tmp_path.glob("*/*view*"))


def test_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadstartError, match=r"features\.dir=.*file cannot be written \(Not a directory\)"):
        ask(FeatureStore(tmp_path / "file"))

    # The tests may run as root, whom no permission stops.
    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(HeadstartError, match=r"cannot be written \(Permission denied\): give another with"):
        ask(FeatureStore(tmp_path / "read-only"))


def test_read_only_folder__what_is_there_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(FeatureStore(tmp_path))

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "touch", "unlink"):
        monkeypatch.setattr(Path, name, refuse)
    monkeypatch.setattr(os, "utime", refuse)
    assert np.array_equal(ask(FeatureStore(tmp_path)), numbers())


def age(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_max_gb__the_keys_used_longest_ago_go_first(tmp_path: Path) -> None:
    one_file = 300 * 1e-9
    keys = [Key("net", {"number": number}) for number in range(4)]
    store = FeatureStore(tmp_path, max_gb=3 * one_file)
    for number, key in enumerate(keys[:3]):
        ask(store, key=key)
        age(tmp_path / key.folder, 1000 - number)
    ask(store, key=keys[0])  # used again
    ask(store, key=keys[3])
    assert [file_of(tmp_path, 0, key).exists() for key in keys] == [True, False, True, True]


def test_max_gb__then_the_keys_own_older_views(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, max_gb=650 * 1e-9)
    for view in range(4):
        assert ask(store, view)[0, 0] == 100 * view
        os.utime(file_of(tmp_path, view), (view, view))
    assert [file_of(tmp_path, view).exists() for view in range(4)] == [False, False, True, True]


def test_max_gb__smaller_than_one_view_is_told(tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match=r"more than features\.max_gb=1e-07"):
        ask(FeatureStore(tmp_path, max_gb=100 * 1e-9))


def test_memory__flat_in_the_number_of_rows(tmp_path: Path) -> None:
    program = """
        import resource, sys
        from pathlib import Path
        import numpy as np
        from headstart.features.store import FeatureStore, Key

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        def make(view, count):
            block = np.ones((1000, 1000), np.float32)
            rows = lambda: (block for _ in range(count))
            store = FeatureStore(Path(sys.argv[1]))
            store.matrix(Key("a", {}), view, shape=(count * 1000, 1000), dtype="float16", rows=rows)
        make(0, 5)
        before = peak()
        make(1, 100)
        print((peak() - before) / 1024)
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20, "MB more for a file of 200 MB than for one of 10 MB"
