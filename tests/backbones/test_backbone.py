import pytest
import torch
import torchvision
from torch import nn

from headstart.backbones.backbone import Backbone, state_sha256
from headstart.backbones.provider import Network, find_stages
from headstart.backbones.torchvision import build_classifier, cut
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError

SIZES = Preprocessing(resize_size=40, image_size=32)


def backbone_of(module: nn.Module, width: int, image_size: int = 32) -> Backbone:
    sizes = Preprocessing(resize_size=image_size, image_size=image_size)
    network = Network(module, width, "fc", None, "none 1", sizes, None)
    return Backbone(network, sizes, "a network", "default", 0, find_stages)


def backbone_with_arch(arch: str, image_size: int = 32) -> Backbone:
    module = build_classifier(arch, seed=0)
    _, width = cut(module)
    return backbone_of(module, width, image_size)


@pytest.fixture
def backbone() -> Backbone:
    return backbone_with_arch("shufflenet_v2_x0_5")


@pytest.fixture
def resnet() -> Backbone:
    return backbone_with_arch("resnet18", image_size=64)


def random_images(count: int, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def test_frozen__stays_in_eval_mode_whatever_is_called(backbone: Backbone) -> None:
    before = state_sha256(backbone)
    for call in (backbone.train, backbone.network.train, lambda: nn.Sequential(backbone).train()):
        call()
        backbone.train()
        features = backbone(random_images(2))
        assert not features.requires_grad
    assert not any(module.training for module in backbone.modules())
    assert state_sha256(backbone) == before


def test_frozen__finds_no_stages(backbone: Backbone) -> None:
    backbone.train()
    assert backbone.state_of(0) == set()
    # That would take a forward pass.
    assert "stages" not in vars(backbone)


def test_forward__normalizes_uint8_images(backbone: Backbone) -> None:
    images = random_images(2)
    normalized = torchvision.transforms.functional.normalize(images / 255, SIZES.mean, SIZES.std)
    assert torch.allclose(backbone(images), backbone.network(normalized), atol=1e-6)
    assert backbone(images).shape == (2, backbone.embedding_dim) == (2, 1024)


def test_source__identifies_the_weights_and_the_cut(backbone: Backbone) -> None:
    assert backbone.source.sha256 == state_sha256(backbone.network)
    assert backbone.source.identity() == {
        "arch": "a network",
        "weights_sha256": backbone.source.sha256,
        "cut": "fc",
        "pooling": "default",
        "library": "none 1",
        "has_photo_features": False,
    }


@pytest.mark.slow
def test_check_input__image_size_that_the_network_does_not_accept() -> None:
    with pytest.raises(HeadstartError, match=r"data\.image_size=32 does not suit model\.arch=a network: Wrong image"):
        backbone_with_arch("vit_b_32").check_input()


def test_parameters_of__each_is_in_one_stage_even_outside_of_any_block(resnet: Backbone) -> None:
    class WithToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(3, 1, 1))
            self.blocks = nn.Sequential(*[nn.Conv2d(3, 3, 1) for _ in range(4)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks(x + self.token).mean((2, 3))

    for backbone in (resnet, backbone_of(WithToken(), 3)):
        found = [id(p) for stage in range(len(backbone.stages)) for p in backbone.parameters_of(stage)]
        assert sorted(found) == sorted(id(p) for p in backbone.network.parameters())


@pytest.mark.slow
def test_unfreeze__from_the_top_while_the_rest_stays_in_eval_mode(resnet: Backbone) -> None:
    resnet.unfreeze(2, batch_norm=True)
    resnet.train()
    trained = {name.partition(".")[0] for name, p in resnet.network.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4"}
    norms = {name.partition(".")[0]: m.training for name, m in resnet.network.named_modules() if "bn" in name}
    assert {name for name, training in norms.items() if training} == {"layer3", "layer4"}
    assert {name.partition(".")[0] for name in resnet.state_of(2)} == {"layer3", "layer4"}
    resnet.eval()
    assert not any(module.training for module in resnet.modules())
    # The next training begins with all stages frozen.
    resnet.unfreeze(1, batch_norm=True)
    trained = {name.partition(".")[0] for name, p in resnet.network.named_parameters() if p.requires_grad}
    assert trained == {"layer4"}


@pytest.mark.slow
@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("count", [1, 5])
def test_unfreeze__a_step_changes_only_what_is_unfrozen(resnet: Backbone, count: int, batch_norm: bool) -> None:
    resnet.unfreeze(count, batch_norm=batch_norm)
    resnet.train()
    before = {name: value.clone() for name, value in resnet.network.state_dict().items()}
    optimizer = torch.optim.SGD(resnet.parameters(), lr=0.1)
    resnet(random_images(4, 64)).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in resnet.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= resnet.state_of(count)
    # The scale and shift of BatchNorm are trained in either case.
    statistics = {name for name in resnet.state_of(count) if "running" in name or "tracked" in name}
    assert resnet.state_of(count) - changed == (set() if batch_norm else statistics)
