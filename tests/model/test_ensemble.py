"""Several classifiers as one: who shares a backbone, and what the mean is."""

import shutil
from pathlib import Path

import pytest
import torch

from headstart.config.model import EncoderSettings
from headstart.errors import HeadstartError
from headstart.model.checkpoint import load_ensemble, members_in

PLAIN = EncoderSettings(precision="32", compile=False)
IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def checkpoints(trained: Path, tmp_path: Path) -> list[Path]:
    """Three that differ in their heads; the third also sees smaller images."""
    paths = [tmp_path / f"{number}.ckpt" for number in range(3)]
    for number, path in enumerate(paths):
        checkpoint = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)
        for name, weights in checkpoint["state_dict"].items():
            checkpoint["state_dict"][name] = weights * 20**number if name.startswith("head.") else weights
        checkpoint["hyper_parameters"]["preprocessing"]["image_size"] = 24 if number == 2 else 32
        torch.save(checkpoint, path)
    return paths


@torch.no_grad()
def test_probabilities__are_the_mean_of_the_members(checkpoints: list[Path]) -> None:
    ensemble, seen = load_ensemble(checkpoints, PLAIN, None), [IMAGES, IMAGES[..., :24, :24]]
    assert [preprocessing.image_size for preprocessing in ensemble.preprocessings] == [32, 24]
    found = ensemble.predict_proba(ensemble.embed(seen))
    of_members = []
    for path, images in zip(checkpoints, [seen[0], seen[0], seen[1]], strict=True):
        (alone,) = load_ensemble([path], PLAIN, None)
        of_members.append(alone.predict_proba(images))
    torch.testing.assert_close(found, sum(of_members, torch.zeros(4, 3)) / 3)
    assert not torch.allclose(of_members[0], of_members[1], atol=1e-3)


def test_single_member__predicts_exactly_as_alone(checkpoints: list[Path]) -> None:
    ensemble = load_ensemble(checkpoints[:1], PLAIN, None)
    features = ensemble.embed([IMAGES])
    assert torch.equal(ensemble.predict_proba(features), ensemble.best.predict_proba(features[0]))


def test_backbone__is_shared_by_those_with_the_same_preprocessing(checkpoints: list[Path]) -> None:
    first, second, third = load_ensemble(checkpoints, PLAIN, None)
    assert first.backbone is second.backbone
    assert first.backbone is not third.backbone


def test_backbone__is_not_shared_if_it_was_trained(checkpoints: list[Path]) -> None:
    checkpoint = torch.load(checkpoints[0], weights_only=True)
    checkpoint["hyper_parameters"]["finetune"]["rest"] = 0
    torch.save(checkpoint, checkpoints[0])
    for order in (checkpoints[:2], checkpoints[1::-1]):
        first, second = load_ensemble(order, PLAIN, None)
        assert first.backbone is not second.backbone


@pytest.mark.parametrize("content", ["", "[]", '{"members": [{}]}'])
def test_record__that_is_damaged(tmp_path: Path, content: str) -> None:
    (tmp_path / "ensemble.json").write_text(content)
    with pytest.raises(HeadstartError, match="is not the record of an ensemble"):
        members_in(tmp_path / "ensemble.json")
    shutil.rmtree(tmp_path)
    with pytest.raises(HeadstartError, match="does not exist"):
        members_in(tmp_path / "ensemble.json")
