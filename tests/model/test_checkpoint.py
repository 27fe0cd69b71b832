import argparse
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from headstart.backbones.backbone import state_sha256
from headstart.config.model import EncoderSettings, FinetuneSettings
from headstart.errors import HeadstartError
from headstart.model.checkpoint import load_classifier, read_checkpoint
from headstart.model.classifier import NETWORK, Classifier
from headstart.model.image_classifier import ImageClassifier

PLAIN = EncoderSettings(precision="32", compile=False)
IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
FULL = FinetuneSettings(epochs=[], lr_factors=[], rest=0, batch_norm=True, mixup=0.0, cutmix=0.0)


@pytest.fixture
def best(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path))


def load(path: Path) -> ImageClassifier:
    return load_classifier(path, PLAIN, moved_to=None)


@pytest.fixture
def finetuned(best: Path, tmp_path: Path) -> Path:
    """A checkpoint of a classifier whose backbone has changed."""
    frozen = load(best)
    classifier = Classifier(frozen.backbone, replace(frozen.recipe, finetune=FULL), PLAIN)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.mul_(1.01)
    checkpoint = torch.load(best, weights_only=True)
    checkpoint |= {"state_dict": classifier.state_dict(), "hyper_parameters": classifier.recipe.as_dict()}
    classifier.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "finetuned.ckpt")
    return tmp_path / "finetuned.ckpt"


def error_for(path: Path) -> str:
    with pytest.raises(HeadstartError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_checkpoint__holds_plain_values_and_no_frozen_backbone(best: Path) -> None:
    checkpoint = torch.load(best, weights_only=True)
    assert {key.partition(".")[0] for key in checkpoint["state_dict"]} == {"head", "temperature", "familiarity"}
    assert checkpoint["hyper_parameters"]["classes"] == ["blue", "green", "red"]
    assert load(best).recipe.classes == ("blue", "green", "red")


def test_checkpoint__of_a_finetuned_classifier_holds_its_backbone(finetuned: Path) -> None:
    state = torch.load(finetuned, weights_only=True)["state_dict"]
    loaded = load(finetuned)
    assert {key for key in state if key.startswith(NETWORK)} == {
        f"{NETWORK}{name}" for name in loaded.backbone.network.state_dict()
    }
    assert_same({key: value for key, value in loaded.state_dict().items() if key in state}, state)
    assert state_sha256(loaded.backbone.network) != loaded.recipe.backbone.sha256


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")  # a tensor has no names
def test_read__missing_truncated_or_foreign_is_an_error(best: Path, tmp_path: Path) -> None:
    assert "does not exist" in error_for(tmp_path / "none.ckpt")
    foreign: tuple[Any, ...] = (
        {"state_dict": {"a": torch.zeros(1)}},
        {"state_dict": {}, "hyper_parameters": {"lr": 0.1}},
        {"state_dict": {}, "hyper_parameters": {"preprocessing": "imagenet", "finetune": True}},
        {"state_dict": {}, "hyper_parameters": None},
        [1, 2],
        "text",
        torch.zeros(2),
    )
    for content in foreign:
        torch.save(content, tmp_path / "foreign.ckpt")
        message = error_for(tmp_path / "foreign.ckpt")
        assert message == f"{tmp_path / 'foreign.ckpt'} is not a checkpoint written by headstart's train.py"
    best.write_bytes(best.read_bytes()[:-1000])
    assert "is damaged" in error_for(best)


def test_read__names_what_could_run_code(best: Path) -> None:
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["hyper_parameters"]["finetune"] = argparse.Namespace(rest=0)
    torch.save(checkpoint, best)
    assert error_for(best) == f"{best} is rejected, because it could run code: it contains argparse.Namespace"


def test_load__another_backbone_than_it_was_trained_with_is_an_error(best: Path) -> None:
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["hyper_parameters"]["backbone"]["seed"] = 1
    torch.save(checkpoint, best)
    with pytest.raises(HeadstartError, match=r"the backbone's weights \(random, from seed 1\) are not those"):
        load(best)


def test_load__precision_auto_is_the_one_it_was_trained_with(best: Path, finetuned: Path) -> None:
    for path, expected in ((best, "bf16"), (finetuned, "32")):
        checkpoint = torch.load(path, weights_only=True)
        checkpoint["hyper_parameters"]["precision"] = "bf16"
        torch.save(checkpoint, path)
        loaded = load_classifier(path, EncoderSettings(precision="auto", compile=False), moved_to=None)
        assert loaded.encoder.precision == expected
        assert load(path).encoder.precision == "32"


def test_version_0_1__is_not_read(best: Path) -> None:
    checkpoint = torch.load(best, weights_only=True)
    recipe = checkpoint["hyper_parameters"]
    del recipe["head"], recipe["preprocessing"]["interpolation"]
    recipe["finetune"]["rest_lr_factor"] = 1.0
    torch.save(checkpoint, best)
    assert error_for(best) == (
        f"{best} was written by headstart 0.1.0, whose checkpoints are no longer read: train it again, or use that "
        "version"
    )


def test_read__leaves_a_checkpoint_of_today_as_it_is(finetuned: Path) -> None:
    stored, found = torch.load(finetuned, weights_only=True), read_checkpoint(finetuned)
    assert found.keys() == stored.keys()
    assert found["hyper_parameters"] == stored["hyper_parameters"]
    assert found["hyper_parameters"]["finetune"] == asdict(FULL)
    assert_same(found["state_dict"], stored["state_dict"])


@pytest.mark.parametrize("part", [None, "backbone", "finetune", "preprocessing"])
def test_read__of_a_newer_headstart_says_so(best: Path, part: str | None) -> None:
    checkpoint = torch.load(best, weights_only=True)
    recipe = checkpoint["hyper_parameters"]
    (recipe if part is None else recipe[part])["invented"] = 1
    checkpoint["versions"]["headstart"] = "9.1"
    torch.save(checkpoint, best)
    message = error_for(best)
    assert message.startswith(f"{best} was written by a newer headstart (9.1) than this one (")
    assert f"does not know {'' if part is None else f'{part}.'}invented" in message


def test_load__other_versions_of_the_libraries_are_named(best: Path, messages: list[str]) -> None:
    load(best)
    assert messages == []
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["versions"]["torch"] = "2.3.1"
    checkpoint["hyper_parameters"]["backbone"]["library"] = "torchvision 0.18.0"
    torch.save(checkpoint, best)
    load(best)
    (message,) = messages
    assert f"torch 2.3.1 (here {torch.__version__}) and torchvision 0.18.0 (here " in message


def test_load__without_versions(best: Path, messages: list[str]) -> None:
    checkpoint = torch.load(best, weights_only=True)
    del checkpoint["versions"]
    torch.save(checkpoint, best)
    load(best)
    assert messages == []
