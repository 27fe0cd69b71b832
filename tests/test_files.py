from pathlib import Path

import pytest

from headstart.files import replacing, write_json


def test_replacing__an_error_leaves_the_old_content_and_no_temporary_file(tmp_path: Path) -> None:
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


def test_write_json__makes_folders_and_files_that_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_json(path, {"a": 1})
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert path.stat().st_mode == plain.stat().st_mode
