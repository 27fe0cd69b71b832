"""What a source of pre-trained networks provides."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from headstart.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Choice:
    """Which network, with which weights: "default" (the first published ones), "bundled", a name, a file, or None for
    random ones.

    `pooling` makes features from what the last layer outputs: "default" (the network's own), "cls", "avg" or "cls+avg".
    `image_size` in pixels; None: that of the preset.
    """

    arch: str
    weights: str | None
    pooling: str = "default"
    image_size: int | None = None


@dataclass(frozen=True)
class Network:
    """`module` maps normalized images to features of `embedding_dim`.

    `cut` is the name of the classification layer that was removed; `weights` are their name or the absolute path of
    their file, None: they are random; `library` is the package that the code is from, and its version. `preset` is the
    preprocessing that belongs to the weights, which for a file is a guess: `guess` says whose it is.
    """

    module: nn.Module
    embedding_dim: int
    cut: str
    weights: str | None
    library: str
    preset: Preprocessing
    guess: str | None


@dataclass(frozen=True)
class Provider:
    """The functions of a provider. Each raises HeadstartError, with the reason, for what it does not have.

    Attributes:
        check: (choice) → nothing; whether `load` would fail is found out without a download.
        preset: (arch, weights) → the preprocessing that belongs to the weights.
        load: (choice, seed) → the network; `seed` is of random weights.
        find_stages: (module, images) → the names of the module's blocks, stage by stage from the input.
    """

    check: Callable[[Choice], None]
    preset: Callable[[str, str | None], Preprocessing]
    load: Callable[[Choice, int], Network]
    find_stages: Callable[[nn.Module, Tensor], list[list[str]]]
