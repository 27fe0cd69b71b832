"""Runs of the scripts in fixtures that several tests share, where the fixtures of one test cannot be used."""

import io
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from conftest import ROOT, Result


def run_script(folder: Path, name: str, *arguments: str) -> Result:
    """Runs train.py or predict.py with arguments in this process and in `folder`, as `__main__`."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.setenv("HYDRA_FULL_ERROR", "")
        patch.setattr(sys, "argv", [str(ROOT / name), *arguments])
        try:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    return Result(status, out.getvalue(), err.getvalue())
