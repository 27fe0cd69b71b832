"""Stages, what is trained when, and how fast."""

import pytest
import torch
from torch import nn

from headstart.data.transforms import Preprocessing
from headstart.model.backbone import Backbone, build_network, cut
from headstart.model.schedule import freed_stages, lr_factor, stage_factors
from headstart.model.stages import find_stages
from headstart.settings import FinetuneSettings

SIZES = Preprocessing(resize_size=40, image_size=64)


def backbone(arch: str = "resnet18") -> Backbone:
    network = build_network(arch, seed=0)
    _, width = cut(network)
    return Backbone(network, width, SIZES)


def finetune(**changes) -> FinetuneSettings:
    plain = {"epochs": [], "lr_factors": [], "rest": None, "rest_lr_factor": 1.0}
    return FinetuneSettings(**plain | {"batch_norm": False, "mixup": 0.0, "cutmix": 0.0} | changes)


@pytest.mark.parametrize(
    ("arch", "tops"),
    [
        ("resnet18", ["conv1", "layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
        ("mobilenet_v2", ["features.0", "features.2", "features.4", "features.7", "features.14"]),
        ("convnext_tiny", ["features.0", "features.2.1", "features.4.1", "features.6.1"]),
    ],
)
def test_stages__by_the_size_of_their_maps(arch: str, tops: list[str]) -> None:
    network = build_network(arch, seed=0)
    cut(network)
    assert [stage[0] for stage in find_stages(network.eval(), torch.zeros(1, 3, 64, 64))] == tops


def test_stages__equal_parts_where_all_maps_have_one_size() -> None:
    network = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(8)])
    assert find_stages(network, torch.zeros(1, 3, 8, 8)) == [["0", "1"], ["2", "3"], ["4", "5"], ["6", "7"]]


def test_parameters__each_in_one_stage_also_those_outside_of_any_block() -> None:
    class WithToken(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(3, 1, 1))
            self.blocks = nn.Sequential(*[nn.Conv2d(3, 3, 1) for _ in range(4)])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.blocks(x + self.token).mean((2, 3))

    for made in (backbone(), Backbone(WithToken(), 3, SIZES)):
        found = [id(p) for stage in range(len(made.stages)) for p in made.parameters_of(stage)]
        assert sorted(found) == sorted(id(p) for p in made.network.parameters())


def test_free__from_the_top_and_the_rest_stays_in_eval_mode() -> None:
    made = backbone()
    made.free(2, batch_norm=True)
    made.train()
    trained = {name.partition(".")[0] for name, p in made.network.named_parameters() if p.requires_grad}
    assert trained == {"layer3", "layer4"}
    norms = {name.partition(".")[0]: m.training for name, m in made.network.named_modules() if "bn" in name}
    assert {name for name, training in norms.items() if training} == {"layer3", "layer4"}
    assert {name.partition(".")[0] for name in made.state_of(2)} == {"layer3", "layer4"}
    made.eval()
    assert not any(module.training for module in made.modules())


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("count", [1, 5])
def test_free__a_step_changes_what_is_freed_alone(count: int, batch_norm: bool) -> None:
    made = backbone()
    made.free(count, batch_norm=batch_norm)
    made.train()
    before = {name: value.clone() for name, value in made.network.state_dict().items()}
    optimizer = torch.optim.SGD(made.parameters(), lr=0.1)
    made(torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in made.network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed <= made.state_of(count)
    # The scale and the shift of BatchNorm are trained in either case.
    statistics = {name for name in made.state_of(count) if "running" in name or "tracked" in name}
    assert made.state_of(count) - changed == (set() if batch_norm else statistics)


def test_freed_stages__a_pure_function_of_the_epoch() -> None:
    gradual = finetune(epochs=[2, 5], lr_factors=[0.1, 0.01])
    assert [freed_stages(gradual, epoch, 5) for epoch in range(7)] == [0, 0, 1, 1, 1, 2, 2]
    assert stage_factors(gradual, 5) == [0.1, 0.01]
    with_rest = finetune(epochs=[2], lr_factors=[0.1], rest=4, rest_lr_factor=0.5)
    assert [freed_stages(with_rest, epoch, 3) for epoch in range(6)] == [0, 0, 1, 1, 3, 3]
    assert stage_factors(with_rest, 3) == [0.1, 0.5, 0.5]
    assert (gradual.first_epoch, with_rest.first_epoch, finetune().first_epoch) == (2, 2, None)


def curve(kind: str, warmup: float, total: int = 100) -> list[float]:
    return [lr_factor(step, kind=kind, warmup=warmup, total=total) for step in range(total)]


def test_schedule__constant_and_cosine_with_warm_up() -> None:
    assert curve("constant", 0.0) == [1.0] * 100
    constant = curve("constant", 0.1)
    assert constant[:10] == sorted(constant[:10])
    assert constant[10:] == [1.0] * 90
    cosine = curve("cosine", 0.0)
    assert cosine[0] == 1.0
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[-1] < 0.001


def test_schedule__one_cycle_is_pytorchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, pct_start=31 / 101, cycle_momentum=False
    )
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert curve("onecycle", 0.3) == pytest.approx(expected, abs=1e-6)


def test_frozen__its_stages_are_never_looked_for() -> None:
    made = backbone()
    made.train()
    assert made.state_of(0) == set()
    assert "stages" not in vars(made)
