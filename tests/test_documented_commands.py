"""Every command in the README and the docs is one that the programs accept."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from headstart.cli.arguments import Program, register_resolvers
from headstart.cli.main import EMBED, PREDICT, TRAIN, arguments_for_hydra
from headstart.config.predict import check_embed, check_predict
from headstart.config.train import check_train

PROGRAMS = {"train": (TRAIN, check_train), "predict": (PREDICT, check_predict), "embed": (EMBED, check_embed)}
COMMAND = re.compile(
    r"^(?:\$ )?(?:python (train|predict)\.py|headstart (train|predict|embed)) (.*?)(?:\s{2,}#.*| # .*)?$"
)
# Flags of Hydra, whose commands run nothing.
FLAGS = ("--help", "--cfg", "job", "--hydra-help", "--version", "--info")


def commands() -> list[str]:
    """Those in indented and fenced blocks, a line each."""
    found = []
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        lines = page.read_text().replace("\\\n", " ").splitlines()
        found += [f"{page.name}: {line.strip()}" for line in lines if COMMAND.match(line.strip()) and "…" not in line]
    return found


@pytest.mark.parametrize("line", commands())
def test_command__is_accepted(line: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = COMMAND.match(line.partition(": ")[2])
    assert found is not None
    program, check = PROGRAMS[found.group(1) or found.group(2)]
    text = re.sub(r"\$\(.*?\)", str(trained / "checkpoints" / "best.ckpt"), found.group(3))
    text = re.sub(r"\bRUN\b", str(trained), text)
    (tmp_path / "DIR").mkdir()
    arguments = [word for word in shlex.split(text) if word not in FLAGS]
    accept(program, check, arguments)


def accept(program: Program, check: Callable[[DictConfig], object], arguments: list[str]) -> None:
    """Does with the arguments what the program does before it looks at images.

    Raises:
        HeadstartError: they are not accepted.
    """
    register_resolvers()
    overrides = [word for word in arguments_for_hydra(arguments, program) if not word.startswith(("-", "hydra."))]
    # What searches by itself needs no values, and plugins need not be installed.
    if any("optuna" in word or "hydra/launcher" in word for word in overrides):
        return
    # Of several values, the first ones.
    first = [re.sub(r"^([^=\[]+=[^,\[({'\"]+),.*$", r"\1", word) for word in overrides]
    first = [re.sub(r"=range\(\d+\)$", "=0", word) for word in first]
    with initialize_config_dir(str(ROOT / "conf")):
        check(compose(program.name, [*first, *(["run_dir=run"] if program.trains else [])]))
