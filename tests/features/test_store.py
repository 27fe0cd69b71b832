import errno
import json
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from headstart.data.preprocessing import Array
from headstart.errors import HeadstartError
from headstart.features.store import FeatureStore, Key
from headstart.files import MARKER, sha256_of
from headstart.log import log_to_console

KEY = Key("net-train", {"weights": "a", "seed": 0})
SHAPE = (10, 4)
VIEW_BYTES = 128 + 10 * 4 * 2  # an .npy file's header, and float16
Rows = Callable[[], Iterator[Array]]


def features(view: int = 0) -> Array:
    return (np.arange(40).reshape(SHAPE) + 100 * view).astype(np.float32)


def rows_of(view: int = 0, calls: list[int] | None = None) -> Rows:
    def rows() -> Iterator[Array]:
        if calls is not None:
            calls.append(view)
        yield from np.split(features(view), [3, 7])

    return rows


def matrix_of(store: FeatureStore, view: int = 0, calls: list[int] | None = None, key: Key = KEY) -> Array:
    return store.get_or_compute(key, view, shape=SHAPE, dtype="float16", rows=rows_of(view, calls))


def file_of(folder: Path, view: int = 0, key: Key = KEY) -> Path:
    return folder / key.folder / f"view-{view:04}.npy"


def checksum_of(folder: Path, view: int = 0) -> Path:
    return file_of(folder, view).with_suffix(".sha256")


def test_matrix__computed_once_and_memory_mapped(tmp_path: Path) -> None:
    calls: list[int] = []
    for _ in range(3):
        found = matrix_of(FeatureStore(tmp_path), calls=calls)
    assert calls == [0]
    assert isinstance(found, np.memmap)
    assert found.dtype == np.float16
    assert not found.flags.writeable
    assert np.array_equal(found, features())
    assert json.loads((file_of(tmp_path).parent / "key.json").read_text()) == KEY.values


def test_file__is_a_plain_npy_with_its_checksum_beside_it(tmp_path: Path) -> None:
    matrix_of(FeatureStore(tmp_path))
    assert np.array_equal(np.load(file_of(tmp_path)), features())
    assert file_of(tmp_path).stat().st_size == VIEW_BYTES
    assert checksum_of(tmp_path).read_text() == sha256_of(file_of(tmp_path))


def test_views_and_keys__are_kept_apart(tmp_path: Path) -> None:
    store, other = FeatureStore(tmp_path), Key("net-train", {"weights": "b", "seed": 0})
    assert matrix_of(store, 1)[0, 0] == 100
    assert matrix_of(store, 0)[0, 0] == 0
    calls: list[int] = []
    matrix_of(store, 1, calls, key=other)
    assert calls == [1]
    assert [store.has(KEY, view) for view in (0, 1, 2)] == [True, True, False]
    assert store.read(KEY, 2) is None


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped in the data", "flipped in the header", "emptied", "overwritten"]
)
def test_damaged_file__is_computed_again_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    log_to_console()
    matrix_of(FeatureStore(tmp_path))
    path = file_of(tmp_path)
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        del content[-50:]
    elif damage == "emptied":
        content.clear()
    elif damage == "overwritten":
        content[:] = b"x" * len(content)
    else:
        content[10 if "header" in damage else -40] ^= 1
    path.write_bytes(bytes(content))
    calls: list[int] = []
    assert np.array_equal(matrix_of(FeatureStore(tmp_path), calls=calls), features())
    assert calls == [0]
    assert f"warning: {path} is damaged; its features are computed again" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"0" * 64, b"\xff" * 64], ids=["empty", "another", "not text"])
def test_wrong_checksum__is_computed_again_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    log_to_console()
    matrix_of(FeatureStore(tmp_path))
    checksum_of(tmp_path).write_bytes(content)
    calls: list[int] = []
    assert np.array_equal(matrix_of(FeatureStore(tmp_path), calls=calls), features())
    assert calls == [0]
    assert f"warning: {file_of(tmp_path)} is damaged" in capsys.readouterr().err
    assert checksum_of(tmp_path).read_text() == sha256_of(file_of(tmp_path))


def test_missing_checksum__of_a_killed_process_is_computed_again_without_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_console()
    matrix_of(FeatureStore(tmp_path))
    checksum_of(tmp_path).unlink()
    assert not FeatureStore(tmp_path).has(KEY, 0)
    calls: list[int] = []
    assert np.array_equal(matrix_of(FeatureStore(tmp_path), calls=calls), features())
    assert calls == [0]
    assert capsys.readouterr().err == ""
    assert FeatureStore(tmp_path).has(KEY, 0)


def test_error_while_computing__leaves_nothing(tmp_path: Path) -> None:
    def rows() -> Iterator[Array]:
        yield features()[:3]
        raise RuntimeError("no image")

    with pytest.raises(RuntimeError, match="no image"):
        FeatureStore(tmp_path).get_or_compute(KEY, 0, shape=SHAPE, dtype="float16", rows=rows)
    assert {path.name for path in (tmp_path / KEY.folder).iterdir()} == {MARKER, "key.json"}
    assert np.array_equal(matrix_of(FeatureStore(tmp_path)), features())


def test_too_few_rows__is_an_error_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 10 rows, got 3"):
        FeatureStore(tmp_path).get_or_compute(KEY, 0, shape=SHAPE, dtype="float16", rows=lambda: iter([features()[:3]]))
    assert not file_of(tmp_path).exists()


@pytest.mark.parametrize("large", range(3))
def test_overflow_of_float16__makes_the_file_float32(tmp_path: Path, large: int) -> None:
    values = features().astype(np.float16).astype(np.float32)
    values[large * 2, 1] = 70_000.5
    parts = np.split(values, range(2, len(values), 2))
    for _ in range(2):
        found = FeatureStore(tmp_path).get_or_compute(KEY, 0, shape=SHAPE, dtype="float16", rows=lambda: iter(parts))
        assert found.dtype == np.float32
        assert np.array_equal(found, values)
    assert FeatureStore(tmp_path).read(KEY, 0) is not None


def compute_slowly(folder: Path, log: Path) -> None:
    def rows() -> Iterator[Array]:
        with log.open("a") as file:
            file.write("computed\n")
        for part in np.split(features(), 5):
            time.sleep(0.1)
            yield part

    found = FeatureStore(folder).get_or_compute(KEY, 0, shape=SHAPE, dtype="float16", rows=rows)
    assert np.array_equal(found, features())


@pytest.mark.slow
def test_several_processes__one_computes_and_the_others_wait(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=compute_slowly, args=(tmp_path / "store", log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert log.read_text() == "computed\n"


@pytest.mark.slow
def test_killed_while_computing__the_next_process_starts_over_and_cleans_up(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    process = context.Process(target=compute_slowly, args=(tmp_path / "store", tmp_path / "log"))
    process.start()
    folder = file_of(tmp_path / "store").parent
    while not list(folder.glob(".view-*.tmp")):
        time.sleep(0.01)
    time.sleep(0.15)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert not file_of(tmp_path / "store").exists()
    assert np.array_equal(matrix_of(FeatureStore(tmp_path / "store")), features())
    assert sorted(path.name for path in folder.iterdir()) == [MARKER, "key.json", "view-0000.npy", "view-0000.sha256"]


def in_process(function: Callable[[Path], None], folder: Path) -> None:
    """Runs a function in a process of its own, which must not fail."""
    process = multiprocessing.get_context("fork").Process(target=function, args=(folder,))
    process.start()
    process.join(60)
    assert process.exitcode == 0


def fill_the_disk(folder: Path) -> None:
    # A limit on the size of files fails a write as a full disk does, and works for every user.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    shape = (1000, 100)
    with pytest.raises(HeadstartError) as error:
        FeatureStore(folder).get_or_compute(KEY, 0, shape=shape, dtype="float16", rows=lambda: iter([np.ones(shape)]))
    assert str(error.value).startswith(f"features.dir={folder} cannot be written (the disk is full)")
    assert "features.cache=false" in str(error.value)


def test_full_disk__is_one_sentence_and_leaves_no_partial_file(tmp_path: Path) -> None:
    in_process(fill_the_disk, tmp_path)
    assert not list(tmp_path.glob("*/*view*"))


def test_full_disk__is_noticed_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def disk_full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    # A memory map of a sparse file would be killed with SIGBUS instead.
    monkeypatch.setattr(os, "posix_fallocate", disk_full)
    calls: list[int] = []
    with pytest.raises(HeadstartError, match=r"features\.dir=.* cannot be written \(the disk is full\): choose"):
        matrix_of(FeatureStore(tmp_path), calls=calls)
    assert calls == []
    assert {path.name for path in (tmp_path / KEY.folder).iterdir()} == {MARKER, "key.json"}


def test_folder_that_cannot_be_written__is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HeadstartError, match=r"features\.dir=.*file cannot be written \(Not a directory\)"):
        matrix_of(FeatureStore(tmp_path / "file"))

    # The tests may run as root, to whom no permission is denied.
    def deny(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", deny)
    with pytest.raises(HeadstartError, match=r"cannot be written \(Permission denied\): choose another folder with"):
        matrix_of(FeatureStore(tmp_path / "read-only"))


def test_read_only_folder__its_features_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix_of(FeatureStore(tmp_path))

    def deny(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EROFS, "Read-only file system")

    for name in ("mkdir", "touch", "unlink"):
        monkeypatch.setattr(Path, name, deny)
    monkeypatch.setattr(os, "utime", deny)
    assert np.array_equal(matrix_of(FeatureStore(tmp_path)), features())


def age(folder: Path, seconds: float) -> None:
    for path in folder.iterdir():
        os.utime(path, (time.time() - seconds, time.time() - seconds))


def test_max_gb__deletes_the_least_recently_used_keys_first(tmp_path: Path) -> None:
    keys = [Key("net", {"number": number}) for number in range(4)]
    store = FeatureStore(tmp_path, max_gb=3.5 * VIEW_BYTES * 1e-9)
    for number, key in enumerate(keys[:3]):
        matrix_of(store, key=key)
        age(tmp_path / key.folder, 1000 - number)
    matrix_of(store, key=keys[0])  # used again
    matrix_of(store, key=keys[3])
    assert [store.has(key, 0) for key in keys] == [True, False, True, True]
    assert not (tmp_path / keys[1].folder).exists()


def test_max_gb__then_deletes_older_views_of_the_same_key(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, max_gb=2.5 * VIEW_BYTES * 1e-9)
    for view in range(4):
        assert matrix_of(store, view)[0, 0] == 100 * view
        os.utime(file_of(tmp_path, view), (view, view))
    names = sorted(path.stem for path in file_of(tmp_path).parent.iterdir())
    assert names == [MARKER, "key", "view-0002", "view-0002", "view-0003", "view-0003"]


def test_max_gb__smaller_than_one_view_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match=r"more than features\.max_gb=1e-07: increase it, or disable the cache"):
        matrix_of(FeatureStore(tmp_path, max_gb=100 * 1e-9))
    assert {path.name for path in file_of(tmp_path).parent.iterdir()} == {MARKER, "key.json"}


def anonymous() -> float:
    """MB of this process's memory: pages of the mapped file count as its too, but the kernel can drop them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def compute_few_and_many_rows(folder: Path) -> None:
    peaks = []
    for view, count in enumerate((5, 30)):
        found: list[float] = []

        def rows(count: int = count, found: list[float] = found) -> Iterator[Array]:
            block = np.ones((1000, 1000), np.float32)
            for _ in range(count):
                yield block
                found.append(anonymous())

        FeatureStore(folder).get_or_compute(KEY, view, shape=(count * 1000, 1000), dtype="float16", rows=rows)
        peaks.append(max(found))
    assert peaks[1] - peaks[0] < 20, "MB more for a file of 60 MB than for one of 10 MB"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory__does_not_grow_with_the_number_of_rows(tmp_path: Path) -> None:
    in_process(compute_few_and_many_rows, tmp_path)
