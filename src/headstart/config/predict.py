"""The settings of predict.py, then those of `headstart embed`."""

import importlib.util
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from headstart.config.checks import (
    auto_or_bool,
    fraction,
    one_of,
    optional,
    optional_positive_int,
    path_field,
    positive_int,
    workers,
)
from headstart.config.model import EncoderSettings, is_model_file
from headstart.config.train import typed
from headstart.errors import HeadstartError
from headstart.run_folder import newest_run

# What `sort` does with the images.
COPY, LINK, MOVE, UNDO = "copy", "link", "move", "undo"


@dataclass(frozen=True, kw_only=True)
class PredictDataSettings:
    batch_size: int = positive_int()
    num_workers: int | str = workers()
    max_pixels: int | None = optional_positive_int()


@dataclass(frozen=True, kw_only=True)
class PredictModelSettings:
    weights: str | None = path_field()


@dataclass(frozen=True, kw_only=True)
class ModelOrFileSettings(PredictModelSettings):
    """The keys of `model`; `file`, which model=FILE sets, is an exported model in place of a checkpoint."""

    file: str | None = path_field()


@dataclass(frozen=True, kw_only=True)
class PredictSettings:
    ckpt_path: str | None = path_field()
    source: Any = path_field()  # noqa: RUF009 (or a glob, or a list of them)
    output: str | None = path_field()
    sort: str | None = optional("copy, link, move or undo", lambda v: v in (COPY, LINK, MOVE, UNDO))
    annotate: bool
    explain: bool
    labelled: bool
    data: PredictDataSettings
    model: ModelOrFileSettings
    features: EncoderSettings
    topk: int = positive_int()
    rows: bool | str = auto_or_bool()
    views: int = positive_int()
    min_confidence: float = fraction()
    accelerator: str = one_of("auto", "cpu", "cuda", "mps")


def check_predict(config: DictConfig) -> PredictSettings:
    """Returns the settings of `predict.py`, checked.

    Raises:
        HeadstartError: names the unknown or missing key, or the invalid value.
    """
    if config.get("sort") == UNDO:
        return _check_undo(config)
    if config.ckpt_path is None and OmegaConf.select(config, "model.file") is None:
        raise HeadstartError(f"ckpt_path is missing: {newest_run()}, or model=FILE.onnx|FILE.pt2 in place of ckpt_path")
    if OmegaConf.is_missing(config, "source"):
        raise HeadstartError("source is missing: the images to predict, source=FILE|DIR|GLOB")
    settings = typed(PredictSettings, config)
    if settings.labelled and isinstance(settings.source, list):
        raise HeadstartError("labelled=true needs one source, the folder whose folders are the classes")
    if settings.model.file is not None:
        _check_file(settings)
    elif importlib.util.find_spec("torch") is None:
        raise HeadstartError(
            "ckpt_path needs torch, which is not installed: set model=FILE.onnx, or python -m pip install -e ."
        )
    for key, what in (("annotate", "annotated images"), ("explain", "explained images"), ("labelled", "report")):
        if getattr(settings, key) and settings.output is None:
            raise HeadstartError(f"{key}=true needs a folder for the {what}: output=DIR")
    if settings.sort and settings.output is None:
        raise HeadstartError(f"sort={settings.sort} needs a folder for the class folders: output=DIR")
    if settings.sort and settings.labelled:
        raise HeadstartError(f"sort={settings.sort} and labelled=true, for sorted images, exclude each other")
    return settings


def _check_undo(config: DictConfig) -> PredictSettings:
    """Returns the settings of sort=undo, which needs neither images nor a model."""
    if OmegaConf.is_missing(config, "source"):
        config.source = ""
    settings = typed(PredictSettings, config)
    if settings.output is None:
        raise HeadstartError("sort=undo needs the folder that the images were moved to: output=DIR")
    return settings


def _check_file(settings: PredictSettings) -> None:
    """Raises HeadstartError for what an exported model rules out."""
    file = settings.model.file
    if not is_model_file(str(file)):
        raise HeadstartError(f"model={file} is not a file of task=export, which end in .onnx or .pt2")
    if settings.ckpt_path is not None:
        raise HeadstartError(f"ckpt_path={settings.ckpt_path} and model={file} exclude each other: give one of them")
    for key, value, usual in (
        ("explain", settings.explain, False),
        ("labelled", settings.labelled, False),
        ("views", settings.views, 1),
        ("model.weights", settings.model.weights, None),
        ("features.precision", settings.features.precision, "auto"),
        ("features.compile", settings.features.compile, "auto"),
    ):
        if value != usual:
            given = str(value).lower() if isinstance(value, bool) else value
            raise HeadstartError(f"{key}={given} needs a checkpoint: model={file} cannot do that")
    if settings.annotate and importlib.util.find_spec("matplotlib") is None:
        raise HeadstartError("annotate=true needs matplotlib, which is not installed: python -m pip install matplotlib")


@dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    ckpt_path: str = path_field()
    source: Any = path_field()  # noqa: RUF009 (or a glob, or a list of them)
    output: str = path_field()
    data: PredictDataSettings
    model: PredictModelSettings
    features: EncoderSettings
    format: str = one_of("npy", "parquet")
    accelerator: str = one_of("auto", "cpu", "cuda", "mps")


def check_embed(config: DictConfig) -> EmbedSettings:
    """Returns the settings of `headstart embed`, checked.

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
