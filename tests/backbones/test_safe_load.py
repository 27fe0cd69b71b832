import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from headstart.backbones.provider import read_safely, read_tensors
from headstart.errors import HeadstartError

Save = Callable[[object, Path], None]


def save(value: object, path: Path) -> None:
    torch.save(value, path)


def save_in_the_old_format(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def save_as_plain_pickle(value: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "a.pth"


def error_for(path: Path) -> str:
    with pytest.raises(HeadstartError) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("write", [save, save_in_the_old_format])
def test_read_tensors__a_state_dict(path: Path, write: Save) -> None:
    write({"weight": torch.arange(3)}, path)
    assert read_tensors(path)["weight"].tolist() == [0, 1, 2]


def test_read_safely__plain_values(path: Path) -> None:
    value = {"a": [1, 2.5, "x", None, True], "b": {"c": (1, 2)}}
    save(value, path)
    assert read_safely(path) == value


@pytest.mark.parametrize("content", [{"a": 1}, [torch.zeros(1)], {}, {"state_dict": {"a": 1}}])
def test_not_a_state_dict__is_an_error(path: Path, content: object) -> None:
    save(content, path)
    assert error_for(path) == f"{path} is not a state_dict: it must map names to tensors, and hold nothing else"


STATE = {"conv.weight": torch.ones(2), "fc.bias": torch.zeros(3)}


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {f"{prefix}{name}": value for name, value in STATE.items()}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}},
        {"model": prefixed("module.")},
        {"state_dict": prefixed("module._orig_mod.")},
        {"state_dict": prefixed("model.") | {"loss.weight": torch.ones(9)}, "hyper_parameters": {}},
        {"state_dict": {"conv.weight": torch.ones(7)}, "state_dict_ema": STATE},
        {"state_dict": prefixed("module.encoder_q.") | {"module.encoder_k.conv.weight": torch.ones(7)}},
        {"model_state_dict": prefixed("backbone.") | {"head.weight": torch.ones(4)}},
        {"teacher": prefixed("backbone."), "student": {"backbone.conv.weight": torch.ones(7)}, "args": None},
        {name: value.half() for name, value in STATE.items()},
    ],
    ids=["plain", "wrapped", "parallel", "compiled", "Lightning", "EMA", "MoCo", "backbone", "DINO", "half"],
)
def test_read_tensors__without_what_training_scripts_add(path: Path, content: object) -> None:
    save(content, path)
    found = read_tensors(path)
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        torch.testing.assert_close(found[name], value)


def test_read_tensors__safetensors(path: Path) -> None:
    path = path.with_suffix(".safetensors")
    save_file(prefixed("module."), path)
    assert read_tensors(path).keys() == STATE.keys()
    path.write_bytes(b"nothing")
    assert error_for(path) == f"{path} is damaged, or is no safetensors file"


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_read_tensors__not_finite_is_an_error_that_names_the_tensor(path: Path, value: float) -> None:
    save({"conv.weight": torch.ones(2), "fc.bias": torch.tensor([1.0, value])}, path)
    assert error_for(path) == f"{path} is damaged: its tensor fc.bias holds NaN or infinite values"


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"", "it is empty"),
        (b"\n<!DOCTYPE html><html>404", "it is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "it is a pointer of Git LFS"),
    ],
)
def test_something_else_in_its_place__is_named(path: Path, content: bytes, hint: str) -> None:
    path.write_bytes(content)
    assert hint in error_for(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"PK\x03\x04 half a zip", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"],
    ids=["empty", "text", "half a zip", "git lfs pointer"],
)
def test_not_written_by_torch__is_an_error(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    message = error_for(path)
    assert "not written by torch.save" in message
    assert "damaged" in message


@pytest.mark.parametrize("write", [save, save_in_the_old_format])
def test_truncated__is_an_error(path: Path, write: Save) -> None:
    write({"weight": torch.zeros(1000)}, path)
    content = path.read_bytes()
    for length in range(0, len(content), len(content) // 50):
        path.write_bytes(content[:length])
        assert "damaged" in error_for(path)


def test_missing_or_a_folder__is_an_error(path: Path) -> None:
    assert "does not exist, or is a folder" in error_for(path)
    path.mkdir()
    assert "does not exist, or is a folder" in error_for(path)


@pytest.mark.parametrize("write", [save, save_in_the_old_format, save_as_plain_pickle])
def test_code__is_rejected_and_not_run(path: Path, write: Save) -> None:
    write({"weight": Bomb()}, path)
    message = error_for(path)
    assert message.startswith(f"{path} is rejected")
    assert "could run code" in message
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("value", "name"), [(Bomb(), f"{os.system.__module__}.system"), (argparse.Namespace(a=1), "argparse.Namespace")]
)
def test_code__is_named(path: Path, value: object, name: str) -> None:
    save({"state_dict": {}, "hyper_parameters": value}, path)
    assert error_for(path) == f"{path} is rejected, because it could run code: it contains {name}"
