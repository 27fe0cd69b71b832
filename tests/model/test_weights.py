import os
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision

from headstart.data.transforms import Preprocessing
from headstart.errors import HeadstartError
from headstart.model.backbone import Backbone, build_network
from headstart.model.weights import BackboneSource, load_backbone, restore_backbone

ARCH = "shufflenet_v2_x0_5"
SIZES = Preprocessing(resize_size=40, image_size=32)


def load(weights: str | None, arch: str = ARCH) -> tuple[Backbone, BackboneSource]:
    return load_backbone(arch, weights, seed=0, preprocessing=SIZES)


def refused(weights: str | None, arch: str = ARCH) -> str:
    with pytest.raises(HeadstartError) as caught:
        load(weights, arch)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.pth"
    torch.save(build_network(ARCH, seed=7).state_dict(), path)
    return path


def test_file__is_loaded_and_its_classifier_ignored(file: Path) -> None:
    backbone, source = load(str(file))
    expected = build_network(ARCH, seed=7).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in backbone.network.state_dict().items())
    assert not any(key.startswith("fc") for key in backbone.network.state_dict())
    assert source.weights == str(file.resolve())


def test_file__without_a_classifier_or_with_another_width(file: Path) -> None:
    state = torch.load(file, weights_only=True)
    state["fc.weight"], state["fc.bias"] = torch.zeros(3, 1024), torch.zeros(3)
    torch.save(state, file)
    _, wide = load(str(file))
    torch.save({key: value for key, value in state.items() if not key.startswith("fc")}, file)
    _, none = load(str(file))
    assert wide.sha256 == none.sha256


def test_file__of_another_architecture(file: Path) -> None:
    message = refused(str(file), arch="squeezenet1_1")
    assert "are not those of model.arch=squeezenet1_1" in message
    assert "are missing, such as features.0.weight" in message


def test_file__of_a_wider_sibling(tmp_path: Path) -> None:
    path = tmp_path / "wide.pth"
    torch.save(build_network("shufflenet_v2_x1_0", seed=0).state_dict(), path)
    assert "are not those of model.arch=shufflenet_v2_x0_5" in refused(str(path))


def test_file__missing_or_misnamed(tmp_path: Path) -> None:
    assert "does not exist" in refused(str(tmp_path / "none.pth"))
    assert "does not exist" in refused("none.pth")
    message = refused("IMAGENET1K_V9")
    assert "neither a file nor bundled nor torchvision weights" in message
    assert "which are IMAGENET1K_V1" in message


@pytest.mark.parametrize("content", [{"a": 1}, [torch.zeros(1)], {}, {"state_dict": {"a": torch.zeros(1)}}])
def test_file__not_a_state_dict(tmp_path: Path, content: object) -> None:
    path = tmp_path / "a.pth"
    torch.save(content, path)
    assert "is not a state_dict" in refused(str(path))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half a zip"])
def test_file__damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    message = refused(str(path))
    assert "not written by torch.save" in message
    assert "damaged" in message


def test_file__truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100_000])
    assert "is damaged" in refused(str(file))


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("save", [torch.save, lambda value, path: Path(path).write_bytes(pickle.dumps(value))])
def test_file__with_code_in_it_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, save) -> None:
    monkeypatch.chdir(tmp_path)
    save({"weight": Bomb()}, "bomb.pth")
    message = refused("bomb.pth")
    assert "bomb.pth is refused: it " in message
    assert "could run code" in message
    assert not (tmp_path / "exploded").exists()


def test_file__of_a_network_with_a_normalisation_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "googlenet.pth"
    torch.save(build_network("googlenet", seed=1).state_dict(), path)
    assert load(str(path), arch="googlenet")[0].network.transform_input
    assert not load(None, arch="googlenet")[0].network.transform_input


def test_file__text(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert "was not written by torch.save" in refused(str(path))


def test_random__by_seed() -> None:
    assert load(None)[1] == load(None)[1]
    other = load_backbone(ARCH, None, seed=1, preprocessing=SIZES)[1]
    assert other.sha256 != load(None)[1].sha256


def test_restore__weights_gone_changed_or_moved(file: Path, tmp_path: Path) -> None:
    _, source = load(str(file))
    restore_backbone(source, moved_to=None, preprocessing=SIZES)
    moved = file.rename(tmp_path / "moved.pth")
    with pytest.raises(HeadstartError, match=r"weights\.pth does not exist: give another with model\.weights=FILE"):
        restore_backbone(source, moved_to=None, preprocessing=SIZES)
    restore_backbone(source, moved_to=str(moved), preprocessing=SIZES)
    state = torch.load(moved, weights_only=True)
    state["conv1.0.weight"][0, 0, 0, 0] += 1e-3
    torch.save(state, moved)
    with pytest.raises(HeadstartError, match=f"it was trained with SHA-256 {source.sha256[:16]}"):
        restore_backbone(source, moved_to=str(moved), preprocessing=SIZES)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty download cache; returns where the weights of ARCH would be kept."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    url = torchvision.models.get_model_weights(ARCH)["IMAGENET1K_V1"].url
    return tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2]


def test_download__no_network(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torch.hub.urlopen", no_network)
    message = refused("IMAGENET1K_V1")
    assert "the weights IMAGENET1K_V1 could not be downloaded from https://download.pytorch.org/" in message
    assert f"set model.weights=FILE or put it at {hub}" in message
    assert not hub.exists()


def test_download__a_damaged_file_in_the_cache_is_not_trusted(hub: Path) -> None:
    hub.parent.mkdir(parents=True)
    torch.save(build_network(ARCH, seed=0).state_dict(), hub)
    message = refused("IMAGENET1K_V1")
    assert f"{hub} is damaged: its SHA-256 begins with" in message
