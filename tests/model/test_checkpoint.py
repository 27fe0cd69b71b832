import shutil
from pathlib import Path

import pytest
import torch

from headstart.errors import HeadstartError
from headstart.model.checkpoint import load_classifier, read_checkpoint
from headstart.settings import EncoderSettings

PLAIN = EncoderSettings(precision="32", compile=False)


@pytest.fixture
def best(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path))


def test_checkpoint__holds_plain_values_and_no_backbone(best: Path) -> None:
    checkpoint = torch.load(best, weights_only=True)
    assert all(key.startswith("head.") for key in checkpoint["state_dict"])
    assert checkpoint["hyper_parameters"]["classes"] == ["blue", "green", "red"]
    assert load_classifier(best, PLAIN, moved_to=None).recipe.classes == ("blue", "green", "red")


def test_missing__truncated_and_foreign(best: Path, tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(HeadstartError) as caught:
            read_checkpoint(path)
        return str(caught.value)

    assert "does not exist" in refused(tmp_path / "none.ckpt")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "foreign.ckpt")
    assert "is not a checkpoint of this project" in refused(tmp_path / "foreign.ckpt")
    torch.save([1, 2], tmp_path / "list.ckpt")
    assert "is not a checkpoint of this project" in refused(tmp_path / "list.ckpt")
    best.write_bytes(best.read_bytes()[:-1000])
    assert "is damaged" in refused(best)


def test_weights__changed_since(best: Path) -> None:
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["hyper_parameters"]["backbone"]["seed"] = 1
    torch.save(checkpoint, best)
    with pytest.raises(HeadstartError, match=r"the backbone's weights \(random, of seed 1\) are not those"):
        load_classifier(best, PLAIN, moved_to=None)
