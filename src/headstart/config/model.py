"""conf/model: the backbone, the head, and how the head is trained."""

from dataclasses import dataclass

from headstart.config.constraints import constrained, fraction, non_negative, one_of, positive_int

# What `model.weights` calls the weights that come with headstart.
BUNDLED = "bundled"
# What it calls those that the architecture's library names first.
DEFAULT = "default"
POOLINGS = ("default", "cls", "avg", "cls+avg")
# Values of `model.head`: those trained step by step, and those fitted at once.
TRAINED, CLOSED_FORM = ("mlp", "linear"), ("ridge", "knn")
SCHEDULES = ("constant", "cosine", "onecycle")


@dataclass(kw_only=True)
class BackboneSettings:
    """All of conf/model that a backbone depends on."""

    arch: str
    weights: str | None
    pooling: str = one_of(*POOLINGS, default="default")


@dataclass(kw_only=True)
class ModelSettings(BackboneSettings):
    """The other settings are of the head, and of how it is trained; `archs` are those to compare."""

    hidden_dim: int = positive_int()
    dropout: float = fraction()
    lr: float = constrained("a positive number", lambda v: 0 < v < float("inf"))
    weight_decay: float = non_negative()
    label_smoothing: float = fraction()
    schedule: str = one_of(*SCHEDULES)
    warmup: float = fraction(" of the steps")
    head: str = one_of(*TRAINED, *CLOSED_FORM, default="mlp")
    archs: list[str] | None = None


def arch_and_weights(name: str, weights: str | None) -> tuple[str, str | None]:
    """What an entry ARCH or ARCH@WEIGHTS of `model.archs` stands for; `weights` are those of the former."""
    arch, separator, own = name.partition("@")
    if not separator:
        return arch, weights
    return arch, None if own == "null" else own


def has_photo_features(weights: str | None) -> bool:
    """Whether similar features mean similar photographs.

    To random weights all images look alike; to the bundled ones, all of a class.
    """
    return weights not in (None, BUNDLED)
