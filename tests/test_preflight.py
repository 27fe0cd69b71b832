"""What is checked before the data."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import SMALL, settings_of

from headstart.errors import HeadstartError
from headstart.pipeline import check_without_data

DATA = (*SMALL, "data.root=nowhere")


def test_checkpoint__of_a_run_folder(trained: Path) -> None:
    checked, _ = check_without_data(settings_of(*DATA, f"ckpt_path={trained}"))
    assert checked.ckpt_path == str(trained / "checkpoints" / "last.ckpt")
    checked, _ = check_without_data(settings_of(*DATA, f"ckpt_path={trained}", "task=test"))
    assert checked.ckpt_path == str(trained / "checkpoints" / "best.ckpt")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "model.arch=squeezenet1_1",
            "model.arch=squeezenet1_1 cannot be set .*, whose checkpoint has shufflenet_v2_x0_5",
        ),
        ("model.head=linear", "model.head=linear cannot be set for a resumed run, whose checkpoint has mlp"),
        ("model.head=ridge", "model.head=ridge cannot be set for a resumed run, whose checkpoint has mlp"),
        ("seed=7", "seed=7 cannot be set for a resumed run, whose checkpoint has 0"),
    ],
)
def test_resume__with_another_configuration(trained: Path, override: str, sentence: str) -> None:
    with pytest.raises(HeadstartError, match=sentence):
        check_without_data(settings_of(*DATA, f"ckpt_path={trained}", override))


@pytest.mark.parametrize("task", ["train", "test", "report"])
def test_checkpoint__of_other_versions(trained: Path, tmp_path: Path, messages: list[str], task: str) -> None:
    shutil.copytree(trained, tmp_path / "run")
    settings = settings_of(*DATA, f"task={task}", f"ckpt_path={tmp_path / 'run'}")
    check_without_data(settings)
    assert not [message for message in messages if "was made with" in message]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    here = record["packages"]["torch"]
    # Their patches change no figures.
    record["packages"] |= {"torch": "1.13.1", "torchvision": record["packages"]["torchvision"] + ".post1"}
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    check_without_data(settings)
    (message,) = (message for message in messages if "was made with" in message)
    assert message.startswith(f"the checkpoint was made with torch 1.13.1, this is torch {here}: figures may differ")
    for content in ("{", "{}"):
        (tmp_path / "run" / "run.json").write_text(content)
        check_without_data(settings)


@pytest.mark.slow
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
