"""Where the weights of a checkpoint's backbone come from."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import ARCH, settings_of

from headstart.backbones import torchvision as provider
from headstart.backbones.backbone import Backbone, check_backbone, check_source, load_backbone, restore_backbone
from headstart.backbones.torchvision import build_classifier
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError

SIZES = Preprocessing(40, 32)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights."""
    path = tmp_path / "weights.pth"
    torch.save(build_classifier(ARCH, seed=5).state_dict(), path)
    return path


def backbone_of(weights: Path) -> Backbone:
    settings = settings_of("data=folder", "data.root=x", f"model.arch={ARCH}", f"model.weights={weights}")
    return load_backbone(settings.model, settings.data, seed=0)


def forbid_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provider, "_download", lambda *arguments: pytest.fail("a download"))


@pytest.mark.slow
def test_restore__a_file_that_is_given_wins_over_a_name(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_download(monkeypatch)
    named = replace(backbone_of(weights).source, weights="IMAGENET1K_V1")
    restored = restore_backbone(named, SIZES, moved_to=str(weights))
    assert restored.source.sha256 == named.sha256
    assert restored.source.weights == str(weights)


@pytest.mark.slow
def test_restore__a_file_that_is_given_must_have_the_same_weights(weights: Path, tmp_path: Path) -> None:
    named = replace(backbone_of(weights).source, weights="IMAGENET1K_V1")
    torch.save(build_classifier(ARCH, seed=6).state_dict(), tmp_path / "other.pth")
    with pytest.raises(HeadstartError, match="are not those of the checkpoint"):
        restore_backbone(named, SIZES, moved_to=str(tmp_path / "other.pth"))
    with pytest.raises(HeadstartError, match="the weights file no/other does not exist"):
        restore_backbone(named, SIZES, moved_to="no/other")
    with pytest.raises(HeadstartError, match=r"the weights file none.pth does not exist"):
        check_source(named, moved_to="none.pth")


def test_restore__a_name_that_is_given_is_merely_the_default(weights: Path) -> None:
    source = backbone_of(weights).source
    assert restore_backbone(source, SIZES, moved_to="IMAGENET1K_V1").source == source


def test_check__needs_no_download(monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path) -> None:
    forbid_download(monkeypatch)
    torch.save({"x": torch.zeros(1)}, tmp_path / "foreign.pth")
    for overrides, sentence in (
        (["model.arch=resnet50"], None),
        ([f"model.arch={ARCH}", f"model.weights={weights}"], None),
        (["model=mobilenet_v3_small", "model.weights=bundled"], None),
        (["model.arch=resnet51"], "resnet51 is not a torchvision classification model"),
        (["model.weights=IMAGENET1K_V9"], "is neither a file nor bundled nor the name of torchvision weights"),
        (["model.weights=none.pth"], "the weights file none.pth does not exist"),
        (["model.weights=bundled"], "model.weights=bundled is not available for model.arch=resnet50"),
        ([f"model.weights={weights}"], "does not fit model.arch=resnet50"),
        ([f"model.weights={tmp_path / 'foreign.pth'}"], "does not fit model.arch=resnet50"),
        ([f"model.weights={tmp_path}"], "does not exist, or is a folder"),
        (["data.resize_size=100"], "data.image_size=224 cannot be cropped"),
    ):
        settings = settings_of("data=folder", "data.root=x", *overrides)
        if sentence is None:
            check_backbone(settings.model, settings.data)
        else:
            with pytest.raises(HeadstartError, match=sentence):
                check_backbone(settings.model, settings.data)
