"""The settings of train.py."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from headstart.config.augment import AugmentSettings
from headstart.config.closed_form import TRAINER, check_closed_form
from headstart.config.constraints import non_negative_int, one_of
from headstart.config.data import DATASETS, DataSettings
from headstart.config.evaluation import EvaluationSettings
from headstart.config.export import ExportSettings
from headstart.config.features import FeatureSettings
from headstart.config.finetune import FinetuneSettings
from headstart.config.lightning import check_validated
from headstart.config.model import CLOSED_FORM, ModelSettings, has_photo_features
from headstart.config.processes import check_processes
from headstart.config.sweep import SweepSettings
from headstart.config.trainer import check_entries, check_trainer
from headstart.config.validation import typed
from headstart.errors import HeadstartError
from headstart.log import log
from headstart.run_folder import newest_run

TASKS = ("train", "test", "report", "audit", "compare", "export")
# Those that use a checkpoint as it is.
EVALUATING = ("test", "report", "export")


@dataclass
class TrainSettings:
    """`trainer`, `callbacks` and `logger` hold arguments of Lightning's classes."""

    data: DataSettings
    model: ModelSettings
    finetune: FinetuneSettings
    features: FeatureSettings
    trainer: dict[str, Any]
    callbacks: dict[str, Any]
    logger: dict[str, Any]
    sweep: SweepSettings
    run_dir: str
    ckpt_path: str | None
    task: str = one_of(*TASKS)
    report: str = one_of("full", "none")
    seed: int = non_negative_int()
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    export: ExportSettings = field(default_factory=ExportSettings)

    @property
    def finds_near_duplicates(self) -> bool:
        """Whether images are compared by their features, which takes a frozen backbone trained on photographs."""
        wanted = self.data.near_duplicates is not False and not self.trainer.get("fast_dev_run")
        is_able = self.finetune.first_epoch is None and has_photo_features(self.model.weights)
        return wanted and is_able and self.features.cache


def check_train(config: DictConfig) -> TrainSettings:
    """The settings of `train.py`.

    Raises:
        HeadstartError: names the unknown key, or the invalid value.
    """
    maker = OmegaConf.select(config, "data.maker")
    if maker not in DATASETS:
        raise HeadstartError(f"data.maker={maker} is invalid: choose one of the files of conf/data with data=NAME")
    # Typed settings have a default for it.
    if OmegaConf.is_missing(config.data, "csv"):
        raise HeadstartError("data.csv is missing: set it with data.csv=FILE")
    settings = typed(TrainSettings, config, data=DATASETS[maker])
    settings.data.check()
    settings.finetune.check()
    settings.augment.check()
    check_trainer(settings.trainer)
    check_processes(settings.trainer, settings.task)
    if settings.model.head in CLOSED_FORM:
        check_closed_form(settings)
        settings.trainer |= TRAINER
    _check_finetuning(settings)
    check_entries("callbacks", settings.callbacks)
    check_entries("logger", settings.logger)
    check_validated(settings.trainer, settings.callbacks)
    if settings.task in EVALUATING and settings.ckpt_path is None:
        raise HeadstartError(f"task={settings.task} needs {newest_run()}")
    if settings.task == "export":
        settings.export.check()
    _check_comparison(settings)
    return settings


def _check_comparison(settings: TrainSettings) -> None:
    if settings.task != "compare":
        if settings.model.archs is not None:
            raise HeadstartError("model.archs is for task=compare: set model.arch, or sweep over it with -m")
        return
    if not settings.model.archs:
        raise HeadstartError("task=compare needs model.archs=[ARCH,ARCH@WEIGHTS,…], such as [resnet50,mobilenet_v2]")
    if not settings.features.cache or settings.finetune.first_epoch is not None:
        raise HeadstartError("task=compare needs features.cache=true and finetune=none: it compares frozen features")


def _check_finetuning(settings: TrainSettings) -> None:
    """What a backbone that is trained rules out."""
    first_epoch = settings.finetune.first_epoch
    if first_epoch is None:
        return
    if settings.features.cache and first_epoch == 0:
        raise HeadstartError(
            "features.cache=true has no effect when the backbone is trained from the first epoch, because its features "
            "change with every step: set features.cache=false, or unfreeze it later, as finetune=gradual does"
        )
    if settings.data.batch_size == 1:
        raise HeadstartError("data.batch_size=1 is invalid with finetune: BatchNorm needs batches of two or more")
    last_epoch, epochs = settings.finetune.last_epoch or 0, settings.trainer.get("max_epochs")
    if settings.task == "train" and epochs is not None and 0 <= epochs <= last_epoch:
        log.warning(
            "trainer.max_epochs=%d ends before every stage in finetune is unfrozen: the last one would be in epoch %d",
            *(epochs, last_epoch + 1),
        )
