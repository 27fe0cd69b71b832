"""The backbones that have a short name, model=NAME."""

import re

import pytest
from hydra import compose, initialize_config_dir

from headstart.backbones.backbone import check_backbone, preprocessing_of
from headstart.cli.arguments import register_resolvers
from headstart.config import CONF, options_of
from headstart.config.train import TrainSettings, check_train


def settings_of(*overrides: str) -> TrainSettings:
    register_resolvers()
    with initialize_config_dir(str(CONF)):
        return check_train(compose("train", ["data=folder", "data.root=images", "run_dir=run", *overrides]))


@pytest.mark.slow
@pytest.mark.parametrize("name", options_of("model"))
def test_names__exist_with_their_pooling_and_size(name: str) -> None:
    settings = settings_of(f"model={name}")
    check_backbone(settings.model, settings.data)
    says = next(
        line for line in (CONF / "model" / f"{name}.yaml").read_text().splitlines() if not line.startswith("# @")
    )
    assert says.startswith("# ")
    assert re.search(r"licence|License", says)
    assert re.search(r"[0-9]+ M parameters", says)


@pytest.mark.slow
def test_names__set_the_image_size_unless_the_user_does() -> None:
    for overrides, size in ((), 224), (("data.image_size=448",), 448):
        settings = settings_of("model=dinov2_small", *overrides)
        assert preprocessing_of(settings.model, settings.data).image_size == size
    assert preprocessing_of((other := settings_of("model=dinov3_small")).model, other.data).image_size == 256
    assert settings_of("model=dinov2_small", "model.lr=0.5").model.lr == 0.5
