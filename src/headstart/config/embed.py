"""The settings of `headstart embed`."""

import importlib.util
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from headstart.config.constraints import one_of
from headstart.config.features import EncoderSettings
from headstart.config.predict import PredictDataSettings, PredictModelSettings
from headstart.config.validation import typed
from headstart.errors import HeadstartError
from headstart.run_folder import newest_run


@dataclass
class EmbedSettings:
    ckpt_path: str
    source: Any  # a path or a glob, or a list of them
    output: str
    data: PredictDataSettings
    model: PredictModelSettings
    features: EncoderSettings
    format: str = one_of("npy", "parquet")
    accelerator: str = one_of("auto", "cpu", "cuda", "mps")


def check_embed(config: DictConfig) -> EmbedSettings:
    """The settings of `headstart embed`.

    Raises:
        HeadstartError: names the unknown or missing key, or the invalid value.
    """
    needed = {"ckpt_path": newest_run, "source": lambda: "source=FILE|DIR|GLOB", "output": lambda: "output=DIR"}
    for key, says in needed.items():
        if OmegaConf.is_missing(config, key):
            raise HeadstartError(f"{key} is missing: set {says()}")
    settings = typed(EmbedSettings, config)
    if settings.format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise HeadstartError("format=parquet needs pyarrow, which is not installed: python -m pip install pyarrow")
    return settings
