"""The settings of predict.py."""

from dataclasses import dataclass

from omegaconf import DictConfig, OmegaConf

from headstart.config.constraints import fraction, one_of, positive_int, workers
from headstart.config.features import EncoderSettings
from headstart.config.validation import typed
from headstart.errors import HeadstartError


@dataclass
class PredictDataSettings:
    batch_size: int = positive_int()
    num_workers: int | str = workers()


@dataclass
class PredictModelSettings:
    weights: str | None


@dataclass
class PredictSettings:
    ckpt_path: str
    source: str
    output: str | None
    annotate: bool
    explain: bool
    labelled: bool
    data: PredictDataSettings
    model: PredictModelSettings
    features: EncoderSettings
    topk: int = positive_int()
    views: int = positive_int()
    min_confidence: float = fraction()
    accelerator: str = one_of("auto", "cpu", "cuda", "mps")


def check_predict(config: DictConfig) -> PredictSettings:
    """The settings of `predict.py`.

    Raises:
        HeadstartError: names the unknown or missing key, or the invalid value.
    """
    for key in ("ckpt_path", "source"):
        if OmegaConf.is_missing(config, key):
            raise HeadstartError(
                f"{key} is missing: python predict.py ckpt_path=RUN/checkpoints/best.ckpt source=FILE|DIR|GLOB"
            )
    settings = typed(PredictSettings, config)
    for key, what in (("annotate", "annotated images"), ("explain", "explained images"), ("labelled", "report")):
        if getattr(settings, key) and settings.output is None:
            raise HeadstartError(f"{key}=true needs a folder for the {what}: output=DIR")
    return settings
