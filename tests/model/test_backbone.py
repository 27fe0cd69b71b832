import pytest
import torch
import torchvision
from torchvision.models import regnet

from headstart.data.transforms import Preprocessing
from headstart.errors import HeadstartError
from headstart.model.backbone import Backbone, architectures, build_network, cut, state_sha256

SIZES = Preprocessing(resize_size=40, image_size=32)


@pytest.fixture
def backbone() -> Backbone:
    network = build_network("shufflenet_v2_x0_5", seed=0)
    return Backbone(network, cut(network)[1], SIZES)


@pytest.fixture
def regnet_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """RegNet computes its widths with small tensors, which must hold numbers."""
    original = regnet.BlockParams.from_init_params

    def on_cpu(*args, **kwargs) -> regnet.BlockParams:
        with torch.device("cpu"):
            return original(*args, **kwargs)

    monkeypatch.setattr(regnet.BlockParams, "from_init_params", on_cpu)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("arch", torchvision.models.list_models(module=torchvision.models))
def test_cut__every_classification_model(arch: str, regnet_on_meta: None) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(arch, weights=None).eval()
        expected = network(torch.zeros(2, 3, 224, 224)).shape
        name, width = cut(network)
        features = network(torch.zeros(2, 3, 224, 224))
    assert expected == (2, 1000)
    assert features.shape == (2, width)
    assert isinstance(network.get_submodule(name), torch.nn.Identity)


def test_cut__gives_what_the_last_layer_saw() -> None:
    network = build_network("shufflenet_v2_x0_5", seed=0).eval()
    seen = []
    network.fc.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    picture = torch.rand(1, 3, 64, 64)
    network(picture)
    cut(network)
    assert torch.equal(network(picture), seen[0])


def test_build_network__depends_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    first = state_sha256(build_network("shufflenet_v2_x0_5", seed=0))
    state = torch.get_rng_state()
    assert state_sha256(build_network("shufflenet_v2_x0_5", seed=0)) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert state_sha256(build_network("shufflenet_v2_x0_5", seed=1)) != first


def test_frozen__in_eval_mode_whatever_is_called(backbone: Backbone) -> None:
    before = state_sha256(backbone)
    for call in (backbone.train, backbone.network.train, lambda: torch.nn.Sequential(backbone).train()):
        call()
        backbone.train()
        features = backbone(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8))
        assert not features.requires_grad
    assert not any(module.training for module in backbone.modules())
    assert state_sha256(backbone) == before


def test_forward__normalises_uint8_pictures(backbone: Backbone) -> None:
    picture = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    normalised = torchvision.transforms.functional.normalize(picture / 255, SIZES.mean, SIZES.std)
    assert torch.allclose(backbone(picture), backbone.network(normalised), atol=1e-6)
    assert backbone(picture).shape == (2, backbone.embedding_dim) == (2, 1024)


def test_unknown_architecture__is_refused_with_the_nearest() -> None:
    with pytest.raises(HeadstartError, match="did you mean resnet50"):
        build_network("resnet5O", seed=0)
    with pytest.raises(HeadstartError, match="no classification model"):
        build_network("maskrcnn_resnet50_fpn", seed=0)
    assert "resnet50" in architectures()


def test_image_size__that_the_network_cannot_take() -> None:
    network = torchvision.models.vit_b_32(weights=None)
    backbone = Backbone(network, cut(network)[1], SIZES)
    with pytest.raises(HeadstartError, match=r"data\.image_size=32 does not suit"):
        backbone.check_input(32)
