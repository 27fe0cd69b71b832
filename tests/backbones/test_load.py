from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import settings_of

from headstart.backbones.backbone import Backbone, load_backbone, preprocessing_of, restore_backbone
from headstart.backbones.torchvision import build_classifier
from headstart.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from headstart.errors import HeadstartError
from headstart.log import log_to_console

ARCH = "shufflenet_v2_x0_5"
SMALL_IMAGES = ("data.resize_size=40", "data.image_size=32")


def load(weights: str | None, arch: str = ARCH, *, seed: int = 0) -> Backbone:
    settings = settings_of("data=folder", "data.root=x", f"model.arch={arch}", *SMALL_IMAGES)
    model = replace(settings.model, weights=weights)
    return load_backbone(model, settings.data, seed=seed)


def error_for(weights: str | None, arch: str = ARCH) -> str:
    with pytest.raises(HeadstartError) as caught:
        load(weights, arch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(build_classifier(ARCH, seed=7).state_dict(), path)
    return path


@pytest.mark.slow
def test_file__is_loaded_and_its_classification_layer_ignored(file: Path) -> None:
    backbone = load(str(file))
    expected = build_classifier(ARCH, seed=7).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.network.state_dict().items())
    assert not any(key.startswith("fc") for key in backbone.network.state_dict())
    assert backbone.source.weights == str(file.resolve())
    assert backbone.source.arch == ARCH


@pytest.mark.slow
def test_file__without_a_classification_layer_or_with_one_of_another_width(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    state["fc.weight"], state["fc.bias"] = torch.zeros(3, 1024), torch.zeros(3)
    torch.save(state, file)
    wide = load(str(file))
    torch.save({key: value for key, value in state.items() if not key.startswith("fc")}, file)
    assert load(str(file)).source.sha256 == wide.source.sha256


@pytest.mark.slow
def test_file__without_batch_norm_counters(file: Path) -> None:
    # As written before PyTorch 0.4.1.
    state = torch.load(file, weights_only=True)
    torch.save({key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}, file)
    assert load(str(file)).source.weights == str(file)


def test_file__of_another_architecture_is_an_error(file: Path) -> None:
    message = error_for(str(file), arch="squeezenet1_1")
    assert message.startswith(f"model.weights={file} does not fit model.arch=squeezenet1_1: ")
    assert "missing tensors, such as features.0.weight" in message
    assert "unexpected tensors, such as conv1.0.weight" in message


@pytest.mark.slow
def test_file__of_a_wider_sibling_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "wide.pth"
    torch.save(build_classifier("shufflenet_v2_x1_0", seed=0).state_dict(), path)
    message = error_for(str(path))
    assert message.startswith(f"model.weights={path} does not fit model.arch=shufflenet_v2_x0_5: ")
    assert "has shape" in message


@pytest.mark.slow
def test_file__missing_or_misnamed_is_an_error(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none.pth"), "none.pth"):
        assert f"the weights file {name} does not exist: give another one with model.weights=FILE" in error_for(name)
    message = error_for("IMAGENET1K_V9")
    assert "neither a file nor bundled nor the name of torchvision weights for shufflenet_v2_x0_5" in message
    assert message.endswith(": IMAGENET1K_V1, DEFAULT")


def test_file__not_a_state_dict_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    torch.save([1], path)
    assert f"{path} is not a state_dict" in error_for(str(path))


@pytest.mark.slow
def test_file__of_a_network_that_normalizes_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "googlenet.pth"
    torch.save(build_classifier("googlenet", seed=1).state_dict(), path)
    assert load(str(path), arch="googlenet").network.transform_input
    assert not load(None, arch="googlenet").network.transform_input


def test_random_weights__depend_on_the_seed() -> None:
    assert load(None).source == load(None).source
    assert load(None, seed=1).source.sha256 != load(None).source.sha256


def preprocessing(*overrides: str) -> Preprocessing:
    settings = settings_of("data=folder", "data.root=x", *overrides)
    return preprocessing_of(settings.model, settings.data)


def test_preprocessing__of_the_recipe() -> None:
    assert preprocessing() == Preprocessing(256, 224, "bilinear", IMAGENET_MEAN, IMAGENET_STD)


def test_preprocessing__is_that_of_the_weights() -> None:
    assert preprocessing("model.arch=efficientnet_b2") == Preprocessing(288, 288, "bicubic")
    assert preprocessing("experiment=quickstart") == Preprocessing(112, 96)


@pytest.mark.slow
def test_preprocessing__each_setting_overrides_that_of_the_weights() -> None:
    swin = ("model.arch=swin_t",)
    assert preprocessing(*swin) == Preprocessing(232, 224, "bicubic")
    assert preprocessing(*swin, "data.interpolation=nearest") == Preprocessing(232, 224, "nearest")
    assert preprocessing(*swin, "data.resize_size=300") == Preprocessing(300, 224, "bicubic")
    half = Preprocessing(232, 224, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert preprocessing(*swin, "data.mean=[0.5,0.5,0.5]", "data.std=[0.25,0.25,0.25]") == half
    assert preprocessing(*swin, "data.resize_size=100", "data.image_size=90") == Preprocessing(100, 90, "bicubic")


@pytest.mark.parametrize(
    ("arch", "image_size", "resize_size"),
    [("resnet50", 112, 128), ("resnet50", 448, 512), ("efficientnet_b2", 144, 144), ("swin_t", 112, 116)],
)
def test_preprocessing__image_size_alone_scales_the_resize_size(arch: str, image_size: int, resize_size: int) -> None:
    found = preprocessing(f"model.arch={arch}", f"data.image_size={image_size}")
    assert (found.resize_size, found.image_size) == (resize_size, image_size)


def test_preprocessing__a_crop_larger_than_the_image_is_an_error() -> None:
    with pytest.raises(HeadstartError, match=r"data\.image_size=224 cannot be cropped .* data\.resize_size=100 pixels"):
        preprocessing("data.resize_size=100")


@pytest.mark.slow
def test_load__logs_whose_preprocessing_a_weights_file_gets(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log_to_console()

    def load_with(*overrides: str) -> str:
        settings = settings_of("data=folder", "data.root=x", f"model.arch={ARCH}", *overrides)
        load_backbone(settings.model, settings.data, seed=0)
        return capsys.readouterr().out

    of_file = f"model.weights={file}"
    start = f"{file}: using the preprocessing of ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1 "
    assert load_with(of_file) == f"{start}(resize 256, crop 224, bilinear); data.resize_size, … change it\n"
    assert load_with(of_file, "data.image_size=112").startswith(f"{start}(resize 128, crop 112, bilinear)")
    # Nothing was guessed where everything is set, or known.
    assert load_with(of_file, *SMALL_IMAGES, "data.interpolation=bilinear") == ""
    assert load_with("model.weights=null") == ""


@pytest.mark.slow
def test_load__has_the_same_preprocessing(file: Path) -> None:
    settings = settings_of("data=folder", "data.root=x", f"model.arch={ARCH}", f"model.weights={file}")
    backbone = load_backbone(settings.model, settings.data, seed=0)
    assert backbone.preprocessing == preprocessing_of(settings.model, settings.data) == Preprocessing(256, 224)
    settings = settings_of("data=folder", "data.root=x", f"model.arch={ARCH}", "model.weights=null", *SMALL_IMAGES)
    assert load_backbone(settings.model, settings.data, seed=0).preprocessing == Preprocessing(40, 32)


@pytest.mark.slow
def test_restore__weights_missing_moved_or_changed(file: Path, tmp_path: Path) -> None:
    backbone = load(str(file))
    source, sizes = backbone.source, backbone.preprocessing
    assert restore_backbone(source, sizes, moved_to=None).source == source
    moved = file.rename(tmp_path / "moved.pth")
    with pytest.raises(HeadstartError, match=r"weights\.pth does not exist: give another one with model\.weights=FILE"):
        restore_backbone(source, sizes, moved_to=None)
    restored = restore_backbone(source, sizes, moved_to=str(moved))
    assert restored.source.sha256 == source.sha256
    assert restored.preprocessing == sizes
    state = torch.load(moved, weights_only=True)
    state["conv1.0.weight"][0, 0, 0, 0] += 1e-3
    torch.save(state, moved)
    with pytest.raises(HeadstartError, match=f"it was trained with SHA-256 {source.sha256[:16]}"):
        restore_backbone(source, sizes, moved_to=str(moved))


def test_preprocessing__who_keeps_the_whole_image_crops_no_border() -> None:
    for mode in ("pad", "squash"):
        found = preprocessing(f"data.resize_mode={mode}", "data.resize_size=null", "data.image_size=null")
        assert (found.resize_size, found.image_size, found.resize_mode) == (224, 224, mode)
        assert preprocessing(f"data.resize_mode={mode}", "data.resize_size=240").resize_size == 240
    assert preprocessing("data.resize_mode=crop").resize_mode == "crop"
