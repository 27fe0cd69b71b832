"""What is checked before the data."""

from pathlib import Path

import pytest
import torch
from conftest import SMALL, settings_of

from headstart.errors import HeadstartError
from headstart.preflight import check_without_data

DATA = (*SMALL, "data.root=nowhere")


def test_checkpoint__of_a_run_folder(trained: Path) -> None:
    checked = check_without_data(settings_of(*DATA, f"ckpt_path={trained}"))
    assert checked.ckpt_path == str(trained / "checkpoints" / "last.ckpt")
    checked = check_without_data(settings_of(*DATA, f"ckpt_path={trained}", "task=test"))
    assert checked.ckpt_path == str(trained / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("model.arch=squeezenet1_1", "its backbone arch is shufflenet_v2_x0_5, not squeezenet1_1"),
        ("model.head=linear", "its head is mlp, not linear"),
        ("model.head=ridge", "its head is mlp, not ridge"),
        ("model.lr=0.5", "its lr is 0.001, not 0.5"),
        ("seed=7", "its seed is 0, not 7"),
    ],
)
def test_resume__with_another_configuration(trained: Path, override: str, sentence: str) -> None:
    with pytest.raises(HeadstartError, match=sentence):
        check_without_data(settings_of(*DATA, f"ckpt_path={trained}", override))


def test_checkpoint__that_is_none(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    for path, sentence in (
        (tmp_path / "none.ckpt", "does not exist"),
        (tmp_path, "is not the folder of a run"),
        (tmp_path / "foreign.ckpt", "is not a checkpoint written by headstart's train.py"),
    ):
        for task in ("train", "test"):
            with pytest.raises(HeadstartError, match=sentence):
                check_without_data(settings_of(*DATA, f"task={task}", f"ckpt_path={path}"))


def test_run_folder__whose_name_is_not_utf8_has_no_logger(tmp_path: Path) -> None:
    settings = settings_of(*DATA)
    settings.run_dir = str(tmp_path / "caf\udce9")
    assert settings.logger
    assert check_without_data(settings).logger == {}
