"""conf/features: how the frozen backbone runs, and where its features are cached."""

from dataclasses import dataclass

from headstart.config.constraints import auto_or_bool, one_of, optional


@dataclass(kw_only=True)
class EncoderSettings:
    """How the frozen backbone runs."""

    precision: str = one_of("auto", "32", "bf16")
    compile: bool | str = auto_or_bool()


@dataclass(kw_only=True)
class FeatureSettings(EncoderSettings):
    cache: bool
    views: int | None = optional("a positive integer", lambda v: v > 0)
    dir: str | None
    max_gb: float | None = optional("a positive number", lambda v: v > 0)
