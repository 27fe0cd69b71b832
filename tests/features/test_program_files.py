import os
import time
from pathlib import Path

import pytest

from headstart.features import compiled
from headstart.features.cache import delete, is_kept, keep, make_room, read
from headstart.features.compiled import program_path

IDENTITY = {"arch": "timm/tiny"}


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))


def make(path: Path, *, used: int = 0) -> Path:
    """A program that was used so many seconds ago."""
    keep(path, lambda temporary: temporary.write_bytes(bytes(10)))
    os.utime(path, (time.time() - used,) * 2)
    return path


def is_whole(path: Path) -> bool:
    return read(path, lambda _: True, "it is made again") is True


def test_path__depends_on_identity_pytorch_and_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    path = program_path(IDENTITY)
    assert path == program_path(IDENTITY)
    assert path.name.startswith("timm_tiny-")
    others = [program_path(IDENTITY | {"state": "other"})]
    for name in ("cpu_name", "cpu_instructions"):
        with monkeypatch.context() as patched:
            patched.setattr(compiled, name, lambda: "other")
            others.append(program_path(IDENTITY))
    monkeypatch.setattr("torch.__version__", "1.0")
    others.append(program_path(IDENTITY))
    assert len({path, *others}) == 5


def test_keep__whole_until_it_changes() -> None:
    path = program_path(IDENTITY)
    assert not is_kept(path)
    assert not is_whole(path)
    make(path)
    assert is_kept(path)
    assert is_whole(path)
    path.write_bytes(bytes(9))
    assert not is_whole(path)
    delete(path)
    assert not is_kept(path)
    delete(path)


@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_folder__that_others_can_write(mode: int) -> None:
    program_path(IDENTITY).parent.chmod(mode)
    with pytest.raises(PermissionError, match="is not a folder that only you can write"):
        program_path(IDENTITY)


def test_folder__of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = program_path(IDENTITY).parent
    user = os.getuid() + 1
    folder.rename(folder.with_name(str(user)))
    monkeypatch.setattr("os.getuid", lambda: user)
    with pytest.raises(PermissionError, match="is not a folder that only you can write"):
        program_path(IDENTITY)


def test_room__the_programs_that_were_not_used_for_longest_are_deleted() -> None:
    folder = program_path(IDENTITY).parent
    for used, name in enumerate(("new", "old", "older"), start=1):
        make(folder / f"{name}.so", used=100 * used)
    assert is_whole(folder / "older.so"), "it is used now"
    newest = make(folder / "newest.so", used=1000)
    make_room(folder.glob("*.so"), 35, newest)
    kept = [f"{name}.{suffix}" for name in ("new", "newest", "older") for suffix in ("sha256", "so")]
    assert sorted(path.name for path in folder.iterdir()) == kept
