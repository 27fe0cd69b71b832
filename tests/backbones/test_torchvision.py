import re
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import regnet

from headstart.backbones.backbone import state_sha256
from headstart.backbones.provider import BUNDLED_FOLDER, Choice
from headstart.backbones.torchvision import architectures, build_classifier, cut, load, preset
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError
from headstart.files import read_json

ARCH = "shufflenet_v2_x0_5"


@pytest.fixture
def regnet_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """RegNet computes its widths with small tensors, which must hold numbers."""
    original = regnet.BlockParams.from_init_params

    def on_cpu(*arguments: Any, **options: Any) -> Any:
        with torch.device("cpu"):
            return original(*arguments, **options)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", on_cpu)


def smallest_of_each_family() -> list[str]:
    """One architecture of each family of torchvision, such as EfficientNet V2: the others differ in depth and width."""
    families: dict[str, list[str]] = {}
    for arch in architectures():
        stem = re.match(r"wide_|[a-z]+(_v\d(?=_)|_[xy](?=_))?", arch)
        assert stem is not None
        families.setdefault(stem.group(), []).append(arch)
    weights = torchvision.models.get_model_weights
    return [min(archs, key=lambda arch: next(iter(weights(arch))).meta["num_params"]) for archs in families.values()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_cut__a_network_of_each_family(regnet_on_meta: None) -> None:
    archs = smallest_of_each_family()
    assert len(archs) > 20
    for arch in archs:
        with torch.device("meta"):
            network = torchvision.models.get_model(arch, weights=None).eval()
            name, width = cut(network)
            features = network(torch.zeros(2, 3, 224, 224))
        assert features.shape == (2, width), arch
        assert isinstance(network.get_submodule(name), nn.Identity), arch


def test_cut__outputs_what_the_last_layer_saw() -> None:
    network = build_classifier(ARCH, seed=0).eval()
    seen = []
    network.get_submodule("fc").register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    image = torch.rand(1, 3, 64, 64)
    network(image)
    cut(network)
    assert torch.equal(network(image), seen[0])


def test_cut__without_a_classification_layer_is_an_error() -> None:
    with pytest.raises(HeadstartError, match="Sequential does not end in a Linear or a 1×1 convolution"):
        cut(nn.Sequential(nn.Linear(4, 10)))


def test_build_classifier__depends_only_on_the_seed() -> None:
    torch.manual_seed(5)
    first = state_sha256(build_classifier(ARCH, seed=0))
    state = torch.get_rng_state()
    assert state_sha256(build_classifier(ARCH, seed=0)) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert state_sha256(build_classifier(ARCH, seed=1)) != first


def test_unknown_architecture__is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(HeadstartError, match=r"model\.arch=resnet5O is not .*: did you mean resnet50"):
        load(Choice("resnet5O", None), 0)
    with pytest.raises(HeadstartError, match="is not a torchvision classification model"):
        preset("maskrcnn_resnet50_fpn", None)
    with pytest.raises(HeadstartError, match="see torchvision's list of classification models"):
        preset("x", None)
    assert "resnet50" in architectures()


@pytest.mark.parametrize(
    ("arch", "weights", "expected"),
    [
        # The recipe's.
        ("resnet50", "IMAGENET1K_V1", Preprocessing(256, 224, "bilinear")),
        ("resnet50", "IMAGENET1K_V2", Preprocessing(232, 224, "bilinear")),
        ("efficientnet_b0", "IMAGENET1K_V1", Preprocessing(256, 224, "bicubic")),
        ("efficientnet_b2", "IMAGENET1K_V1", Preprocessing(288, 288, "bicubic")),
        ("efficientnet_v2_l", "IMAGENET1K_V1", Preprocessing(480, 480, "bicubic", (0.5,) * 3, (0.5,) * 3)),
        ("swin_t", "IMAGENET1K_V1", Preprocessing(232, 224, "bicubic")),
        ("maxvit_t", "IMAGENET1K_V1", Preprocessing(224, 224, "bicubic")),
        ("vit_h_14", "IMAGENET1K_SWAG_LINEAR_V1", Preprocessing(224, 224, "bicubic")),
        ("vit_h_14", "IMAGENET1K_SWAG_E2E_V1", Preprocessing(518, 518, "bicubic")),
    ],
)
def test_preset__is_what_torchvision_publishes_for_the_weights(
    arch: str, weights: str, expected: Preprocessing
) -> None:
    found = preset(arch, weights)
    assert found == expected
    # Torchvision's own transform, too, should these numbers ever change there.
    transform = torchvision.models.get_model_weights(arch)[weights].transforms()
    assert (found.resize_size, found.image_size) == (transform.resize_size[0], transform.crop_size[0])
    assert found.interpolation == transform.interpolation.value


def test_preset__every_classification_model_has_one_for_all_its_weights() -> None:
    for arch in architectures():
        for weights in (None, *torchvision.models.get_model_weights(arch).__members__):
            found = preset(arch, weights)
            assert found.resize_size >= found.image_size > 0
            assert found.interpolation in ("bilinear", "bicubic")


@pytest.mark.parametrize("arch", ["resnet50", "efficientnet_b1", "mobilenet_v2"])
def test_preset__of_a_weights_file_is_that_of_the_architectures_first_weights(arch: str) -> None:
    assert preset(arch, "mine.pth") == preset(arch, "IMAGENET1K_V1") != preset(arch, "DEFAULT")


def test_preset__of_a_resnet50_file_is_the_recipes() -> None:
    assert preset("resnet50", "mine.pth") == Preprocessing(256, 224)


@pytest.mark.slow
def test_load__names_the_weights_whose_preset_is_a_guess(tmp_path: Path) -> None:
    torch.save(build_classifier("mobilenet_v2", seed=0).state_dict(), tmp_path / "mine.pth")
    network = load(Choice("mobilenet_v2", str(tmp_path / "mine.pth")), 0)
    assert network.guess == "MobileNet_V2_Weights.IMAGENET1K_V1"
    assert network.preset == preset("mobilenet_v2", "IMAGENET1K_V1") == Preprocessing(256, 224)
    for arch, weights in (("mobilenet_v2", None), ("mobilenet_v3_small", "bundled")):
        assert load(Choice(arch, weights), 0).guess is None


def test_preset__of_the_bundled_weights_is_in_their_record() -> None:
    record = read_json(BUNDLED_FOLDER / "mobilenet_v3_small.json")
    assert preset("mobilenet_v3_small", "bundled").as_dict() == record["preprocessing"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache; returns where the weights of ARCH would be kept."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights(ARCH)["IMAGENET1K_V1"].url
    return tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]


def test_download__without_a_network_is_an_error_that_says_what_to_do(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*arguments: object, **options: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    with pytest.raises(HeadstartError) as caught:
        load(Choice(ARCH, "IMAGENET1K_V1"), 0)
    message = str(caught.value)
    assert "the weights IMAGENET1K_V1 could not be downloaded from https://download.pytorch.org/" in message
    assert f"set model.weights=FILE or put it at {hub}" in message
    assert not hub.exists()


def test_download__damaged_since_is_an_error(hub: Path) -> None:
    hub.parent.mkdir(parents=True)
    torch.save(build_classifier(ARCH, seed=0).state_dict(), hub)
    with pytest.raises(HeadstartError, match=r"is damaged: its SHA-256 starts with \w{8} instead of \w{8,}; delete it"):
        load(Choice(ARCH, "IMAGENET1K_V1"), 0)
