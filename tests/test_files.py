import itertools
import os
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from headstart.files import read_json, replacing, sha256_of, write_json, write_text


def test_replacing__error_keeps_the_old_content_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_json__creates_folders_and_files_that_others_can_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": 1})
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert path.stat().st_mode == plain.stat().st_mode


def test_write__names_that_are_not_utf_8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / "a.txt", name)
    assert (tmp_path / "a.txt").read_bytes() == b"caf\xe9"
    write_json(tmp_path / "a.json", ["é", name])
    assert read_json(tmp_path / "a.json") == ["é", name]


def test_sha256_of__content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_replacing__a_signal_at_any_line_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"

    def interrupted(at: int) -> bool:
        """Whether the line was reached at which, as a signal's handler may at any, an exception is raised."""
        lines = itertools.count()

        def trace(frame: FrameType, event: str, argument: object) -> Any:
            if frame.f_code.co_name == "replacing" and event == "line" and next(lines) == at:
                raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            write_text(path, "new")
        except KeyboardInterrupt:
            return True
        finally:
            sys.settrace(before)
        return False

    reached = list(itertools.takewhile(interrupted, itertools.count()))
    assert len(reached) > 5
    assert [other.name for other in tmp_path.iterdir()] == ["file"]
