"""The environment of other libraries, also of users without a home folder, or without a name."""

import getpass
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from headstart import files
from headstart.cli.main import use_writable_caches
from headstart.errors import HeadstartError
from headstart.files import cache_folder, exclusively

VARIABLES = ("MPLCONFIGDIR", "TORCH_HOME", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


@pytest.fixture(autouse=True)
def no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No home folder is known, and no variable is set."""
    for name in ("HEADSTART_CACHE", "XDG_CACHE_HOME", "HOME", *VARIABLES):
        # Registered first, so that what a test sets is removed again.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    files._temporary_cache_folder.cache_clear()
    yield
    files._temporary_cache_folder.cache_clear()


def test_cache_folder__may_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "headstart"
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert Path(exclusively(tmp_path / "data").lock_file).parent == tmp_path / "own" / "locks"


def test_cache_folder__temporary_for_users_without_home(tmp_path: Path) -> None:
    folder = tmp_path / "temporary" / f"headstart-{os.getuid()}"
    assert cache_folder() == cache_folder() == folder
    assert folder.stat().st_mode & 0o777 == 0o700


def test_cache_folder__never_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "temporary" / f"headstart-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HeadstartError, match="set the environment variable HEADSTART_CACHE to a folder"):
        cache_folder()


def test_lock__names_the_variable_if_the_folder_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "file"))
    with pytest.raises(HeadstartError, match=r"file/locks cannot be written: .*HEADSTART_CACHE"):
        exclusively(tmp_path / "data")


def test_other_caches__only_where_their_own_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "me")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    use_writable_caches()
    assert not [name for name in VARIABLES if name in os.environ]


def test_other_caches__below_ours_without_home_and_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr(getpass, "getuser", unknown)
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("TORCH_HOME", "/mine")
    use_writable_caches()
    assert os.environ["TORCH_HOME"] == "/mine"
    for name in ("MPLCONFIGDIR", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"):
        assert Path(os.environ[name]).parent == tmp_path / "own"
        assert Path(os.environ[name]).is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(None, "1"), ("3", "3")])
def test_program__lets_numpy_compute_on_one_core(before: str | None, after: str) -> None:
    program = (
        "import os, sys; from headstart.cli.main import TRAIN, start; sys.argv = ['train.py', '--version']; "
        "start(TRAIN); "
        "print('numpy' in sys.modules, os.environ['OPENBLAS_NUM_THREADS'])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    environment |= {} if before is None else {"OPENBLAS_NUM_THREADS": before}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"False {after}"
