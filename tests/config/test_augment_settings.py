"""The group `augment`."""

import pytest
from conftest import SMALL, settings_of

from headstart.errors import HeadstartError
from headstart.pipeline import check_without_data

ROOT = ("data.root=DIR", *SMALL, "logger=none")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("augment.transforms=[{size: 3}]", r"augment.transforms\[0\]={'size': 3} has no class"),
        ("augment.transforms=[strong]", r"augment.transforms\[0\]=strong has no class"),
        (
            "augment.transforms=[{_target_: os.system, command: ls}]",
            "_target_=os.system is not one of torchvision's v2",
        ),
        (
            "augment.transforms=[{_target_: torchvision.transforms.v2._utils.torch.load, f: x}]",
            "is not one of torchvision's v2 transforms",
        ),
        (
            "augment.transforms=[{_target_: torchvision.transforms.v2.Compose, transforms: [{_target_: os.system}]}]",
            r"augment.transforms\[0\].transforms._target_=os.system is not one of",
        ),
        ("augment.transforms=strong", "augment.transforms=strong is invalid: it must be a list"),
    ],
)
def test_entry__that_is_no_transform_is_rejected(override: str, sentence: str) -> None:
    with pytest.raises(HeadstartError, match=sentence):
        settings_of(*ROOT, override)


@pytest.mark.slow
def test_preflight__tries_the_transforms_before_the_data_are_read() -> None:
    with pytest.raises(HeadstartError, match=r"augment.transforms must give uint8 \(3, 32, 32\)"):
        check_without_data(
            settings_of(*ROOT, "augment.transforms=[{_target_: torchvision.transforms.v2.CenterCrop, size: 20}]")
        )
    for option in ("recipe", "none", "light", "strong"):
        check_without_data(settings_of(*ROOT, f"augment={option}"))
