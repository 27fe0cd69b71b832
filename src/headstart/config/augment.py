"""conf/augment: how training images are augmented, as a list of torchvision's v2 transforms."""

import re
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from headstart.errors import HeadstartError

# What a _target_ may be. A resumed run repeats the overrides it finds in a folder, which may be somebody else's.
TARGET = re.compile(r"torchvision\.transforms\.v2\.[A-Z]\w*")
# conf/augment/recipe.yaml, which settings that an older version recorded do not have.
RECIPE: list[Any] = [
    {
        "_target_": "torchvision.transforms.v2.RandomResizedCrop",
        "size": "resize_size",
        "scale": [0.8, 1.0],
        "interpolation": "interpolation",
    },
    {"_target_": "torchvision.transforms.v2.RandomRotation", "degrees": 15},
    {"_target_": "torchvision.transforms.v2.RandomHorizontalFlip"},
    {"_target_": "torchvision.transforms.v2.CenterCrop", "size": "image_size"},
]


@dataclass
class AugmentSettings:
    """Each of `transforms` has its class as `_target_`, and its arguments. None of them: images as in evaluation."""

    transforms: list[Any] = field(default_factory=lambda: deepcopy(RECIPE))

    def check(self) -> None:
        """Raises HeadstartError for an entry that is no transform."""
        for number, entry in enumerate(self.transforms):
            _check_entry(entry, f"augment.transforms[{number}]")


def _check_entry(entry: Any, place: str) -> None:
    if not isinstance(entry, dict) or "_target_" not in entry:
        raise HeadstartError(f"{place}={entry} has no class: write it as _target_: torchvision.transforms.v2.NAME")
    if not TARGET.fullmatch(str(entry["_target_"])):
        raise HeadstartError(
            f"{place}._target_={entry['_target_']} is not one of torchvision's v2 transforms: write it as "
            "torchvision.transforms.v2.NAME"
        )
    for key, value in entry.items():
        for inner in value if isinstance(value, list) else [value]:
            if isinstance(inner, dict):
                _check_entry(inner, f"{place}.{key}")
