"""Full disks, too little memory and dead workers: one sentence, and no half-written file."""

import errno
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from headstart.errors import HeadstartError
from headstart.files import replacing, write_text
from headstart.machine import fault_of_machine, training_device
from headstart.training.trainer import SafeCheckpointIO

FULL = OSError(errno.ENOSPC, "No space left on device")


class FullDisk(io.RawIOBase):
    """A file on a disk without space."""

    def __init__(self, name: Any) -> None:
        self.name = name

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_replacing__a_full_disk_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    with pytest.raises(OSError, match="No space") as caught, replacing(tmp_path / "a.json"):
        raise FULL
    assert fault_of_machine(caught.value) == f"{tmp_path / 'a.json'} could not be written: No space left on device"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


def test_replacing__a_name_as_long_as_a_file_system_allows(tmp_path: Path) -> None:
    for name in ("x" * 255, "é" * 127):
        write_text(tmp_path / name, "content")
        assert (tmp_path / name).read_text() == "content"


@pytest.mark.parametrize("name", ["/data/events", b"/data/events"])
def test_fault__names_the_file_that_another_library_had_open(name: str | bytes) -> None:
    def write_somewhere() -> None:
        file = FullDisk(name)
        file.write(b"x")

    with pytest.raises(OSError, match="No space") as caught:
        write_somewhere()
    assert fault_of_machine(caught.value) == "/data/events could not be written: No space left on device"


def test_checkpoint__on_a_full_disk_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Path.open

    def full(path: Path, mode: str = "r", *arguments: Any) -> Any:
        return FullDisk(str(path)) if mode == "wb" else original(path, mode, *arguments)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space") as caught:
        SafeCheckpointIO().save_checkpoint({"a": torch.zeros(100_000)}, tmp_path / "last.ckpt")
    assert fault_of_machine(caught.value) == f"{tmp_path / 'last.ckpt'} could not be written: No space left on device"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), "a process that reads images was"),
        (RuntimeError("DataLoader timed out after 300 seconds"), "did not answer"),
        (
            RuntimeError("… process 1.\nunable to allocate shared memory(shm) for file"),
            "too little shared memory",
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error."), "too little shared memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory, try a smaller data.batch_size"),
        (MemoryError(), "out of memory, try a smaller data.batch_size"),
    ],
)
def test_fault__memory_and_workers(error: Exception, sentence: str) -> None:
    found = fault_of_machine(error)
    assert found is not None
    assert sentence in found
    assert "\n" not in found


@pytest.mark.parametrize("error", [RuntimeError("Caught ValueError in DataLoader worker process 1."), OSError(2, "No")])
def test_fault__not_of_other_errors(error: Exception) -> None:
    assert fault_of_machine(error) is None


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({}, "cuda:0"),
        ({"accelerator": "cpu", "devices": 2}, "cpu"),
        ({"accelerator": "gpu", "devices": "auto"}, "cuda:0"),
        ({"accelerator": "cuda", "devices": [1, 2]}, "cuda:1"),
        ({"accelerator": "gpu", "devices": "3,"}, "cuda:3"),
    ],
)
def test_training_device__is_the_first_of_a_trainers(
    monkeypatch: pytest.MonkeyPatch, trainer: dict[str, Any], expected: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert str(training_device(trainer)) == expected


def test_training_device__that_is_missing_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda", "backends.mps"):
        monkeypatch.setattr(f"torch.{name}.is_available", lambda: False)
    assert str(training_device({"accelerator": "auto"})) == "cpu"
    with pytest.raises(HeadstartError, match=r"trainer.accelerator=gpu needs a GPU, and PyTorch finds none"):
        training_device({"accelerator": "gpu"})
    with pytest.raises(HeadstartError, match=r"trainer.accelerator=abacus is invalid: it must be one of auto, cpu"):
        training_device({"accelerator": "abacus"})
