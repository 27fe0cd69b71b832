"""task=report: the report of a finished run, made again."""

import re
import shutil
from pathlib import Path

from conftest import Script


def test_report__is_the_same_again_and_changes_nothing_else(script: Script, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "copy of run"
    shutil.copytree(trained, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    shutil.rmtree(run / "report")
    result = script("train.py", "task=report", f"ckpt_path={run}")
    assert result.status == 0, result.err
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    events = {path for path in (*before, *after) if path.name.startswith("events.") and "report" in path.parts}
    assert before.keys() - events == after.keys() - events
    # The page has commands with the path of the run, which is another one.
    commands = re.compile(rb'<p class="next">.*?</p>', re.DOTALL)
    differs = [
        path for path in before.keys() - events if commands.sub(b"", before[path]) != commands.sub(b"", after[path])
    ]
    assert differs == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy of run", "work"]


def test_report__needs_a_finished_run(script: Script, trained: Path) -> None:
    Path("alone").mkdir()
    shutil.copy(trained / "checkpoints" / "best.ckpt", "alone")
    images = f"data.root={trained.parent / 'images'}"
    result = script("train.py", "task=report", "ckpt_path=alone/best.ckpt", "data=folder", images)
    assert result.status == 1
    assert "is not in the folder of a finished run" in result.err
    assert script("train.py", "task=report").err == "error: task=report needs ckpt_path=RUN, the folder of a run\n"
