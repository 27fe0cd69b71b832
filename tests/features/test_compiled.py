"""Compiled networks: made once per machine, kept whole or not at all, and never trusted blindly."""

import errno
import os
import shutil
import signal
import threading
import time
import weakref
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from fork_server import ForkServer, Process
from torch import Tensor, nn

from headstart.features import compiled
from headstart.features.compiled import (
    CompilationFailed,
    CompiledModel,
    Unusable,
    compiled_program,
    is_compiled,
    program_path,
)
from headstart.files import sha256_of
from headstart.log import log_to_console

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler"),
]
IDENTITY = {"arch": "tiny"}
# What another process does to compile the same.
SCRIPT = f"""
import sys
sys.path += {[str(folder) for folder in Path(__file__).parents[:2]]}
import test_compiled
for precision in ("32", "bf16"):
    test_compiled.program_of(test_compiled.tiny(0), precision)
print("done")
"""


def tiny(seed: int) -> nn.Module:
    """Another network for each seed."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers).eval().requires_grad_(False).to(memory_format=torch.channels_last)


def example() -> Tensor:
    images = torch.rand(4, 3, 192, 192, generator=torch.Generator().manual_seed(0))
    return images.contiguous(memory_format=torch.channels_last)


def program_of(network: nn.Module, precision: str = "32") -> CompiledModel:
    return compiled_program(network, example(), precision, IDENTITY)


@dataclass(frozen=True)
class Made:
    """Programs that two processes have made together, after a third was killed while it compiled, and what they said.

    To compile takes many seconds: all tests use these.
    """

    cache: Path
    said: list[str]

    def program(self, precision: str) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HEADSTART_CACHE", str(self.cache))
            return program_path(IDENTITY | {"shape": list(example().shape), "precision": precision})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> Made:
    folder = tmp_path_factory.mktemp("made")
    (folder / "compile.py").write_text(SCRIPT)

    def start() -> Process:
        environment = os.environ | {"HEADSTART_CACHE": str(folder / "cache")}
        return forks.start(str(folder / "compile.py"), folder=folder, environment=environment)

    process = start()
    while not list(folder.glob("cache/**/*.work/*")):
        assert process.poll() is None
        time.sleep(0.05)
    # At any moment of it.
    time.sleep(time.time() % 3)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    both = [start() for _ in range(2)]
    return Made(folder / "cache", [process.communicate(timeout=300)[0] for process in both])


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder of kept programs, in a cache of its own."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    log_to_console()
    return program_path(IDENTITY).parent


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch, cache: Path, made: Made) -> list[Path]:
    """Lists where something is compiled; whatever it is, the result is the program of tiny(0)."""
    works = []

    def copy(work: Path, network: nn.Module, images: Tensor) -> Path:
        works.append(work)
        return Path(shutil.copy(made.program("32"), work))

    monkeypatch.setattr(compiled, "_compile_in", copy)
    return works


def replace(path: Path, content: bytes) -> None:
    # A new file: the old one is part of this process.
    path.unlink()
    path.write_bytes(content)


def files(cache: Path) -> list[str]:
    return sorted(path.suffix for path in cache.iterdir())


def test_program__compiled_once_and_kept(compilations: list[Path], cache: Path) -> None:
    network = tiny(0)
    assert not is_compiled(tuple(example().shape), "32", IDENTITY)
    for _ in range(2):
        program = program_of(network)
        assert torch.allclose(program(example()), network(example()), atol=1e-6)
    assert len(compilations) == 1
    assert files(cache) == [".sha256", ".so"]
    assert is_compiled(tuple(example().shape), "32", IDENTITY)


def test_program__threads_run_it_at_the_same_time(compilations: list[Path]) -> None:
    program, images, ticks, done = program_of(tiny(0)), example(), [0], threading.Event()

    def tick() -> None:
        while not done.is_set():
            ticks[0] += 1
            time.sleep(0.0001)

    thread = threading.Thread(target=tick)
    thread.start()
    calls = 30
    for _ in range(calls):
        program(images)
    done.set()
    thread.join()
    assert ticks[0] > 4 * calls, "Python's lock is not held during a call"


def test_program__needs_no_more_memory_after_many_calls(compilations: list[Path]) -> None:
    network = tiny(0)
    program, images = program_of(network), example()
    before = weakref.ref(images)
    found = [program(images) for _ in range(3)]
    assert all(torch.allclose(result, network(images), atol=1e-6) for result in found)
    del images
    assert before() is None, "the inputs are given back"


def test_program__damaged_is_compiled_again(
    compilations: list[Path], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = tiny(0)
    program_of(network)
    (path,) = cache.glob("*.so")
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 255
    for count, content in enumerate((bytes(changed), whole[:1000], b""), start=2):
        replace(path, content)
        assert torch.allclose(program_of(network)(example()), network(example()), atol=1e-6)
        assert len(compilations) == count
        assert "is damaged; it is compiled again" in capsys.readouterr().err


def test_killed_compilations__what_they_left_is_deleted_after_a_day(compilations: list[Path], cache: Path) -> None:
    for age, name in ((0, "running.work"), (compiled.ABANDONED + 10, "killed.work")):
        (cache / name).mkdir()
        os.utime(cache / name, (time.time() - age,) * 2)
    program_of(tiny(0))
    assert files(cache) == [".sha256", ".so", ".work"]
    assert (cache / "running.work").exists()


def test_program__that_is_none_is_compiled_again(compilations: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    network = tiny(0)
    path = program_path(IDENTITY | {"shape": list(example().shape), "precision": "32"})
    path.write_bytes(b"nothing")
    path.with_suffix(".sha256").write_text(sha256_of(path))
    assert torch.allclose(program_of(network)(example()), network(example()), atol=1e-6)
    assert len(compilations) == 1
    assert "could not be loaded" in capsys.readouterr().err


def test_program__that_gives_other_numbers_is_not_used(
    compilations: list[Path], cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program_of(tiny(0))
    with pytest.raises(Unusable):
        program_of(tiny(1))
    assert len(compilations) == 2
    assert "gives other numbers than the uncompiled network" in capsys.readouterr().err
    assert files(cache) == []


def test_program__in_bf16(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_CACHE", str(made.cache))
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("it was kept"))
    network = tiny(0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        expected = network(example())
    found = program_of(network, "bf16")(example())
    assert found.dtype == expected.dtype
    assert torch.allclose(found.float(), expected.float(), atol=1e-2)
    assert not torch.equal(found.float(), network(example()))


def test_folder__that_others_can_write_is_not_used(compilations: list[Path], cache: Path) -> None:
    program_of(tiny(0))
    cache.chmod(0o770)
    assert not is_compiled(tuple(example().shape), "32", IDENTITY)
    with pytest.raises(CompilationFailed, match="is not a folder that only you can write"):
        program_of(tiny(0))


def test_compiler__missing_is_known_at_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler --flag")
    monkeypatch.setattr("torch.export.export", lambda *_: pytest.fail("it was about to compile"))
    with pytest.raises(CompilationFailed, match=r"there is no C\+\+ compiler \(no-such-compiler --flag\)"):
        program_of(tiny(0))


def disk_is_full(*args: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk__the_network_runs_uncompiled(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.export.export", disk_is_full)
    with pytest.raises(CompilationFailed, match="No space left on device"):
        program_of(tiny(0))
    assert files(cache) == []


def test_disk_full_at_last__the_network_runs_uncompiled(
    compilations: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "keep", disk_is_full)
    with pytest.raises(CompilationFailed, match="No space left on device"):
        program_of(tiny(0))
    assert files(cache) == []


def test_killed_while_compiling__the_next_process_compiles(made: Made) -> None:
    assert made.said == ["done\n", "done\n"]
    assert files(made.program("32").parent) == [".sha256", ".sha256", ".so", ".so"]
