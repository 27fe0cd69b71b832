"""Lightning's Trainer from the settings, what its errors mean, and its runs in Weights & Biases and MLflow."""

import io
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, ModelSummary, ProgressBar
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, PyTorchProfiler, SimpleProfiler
from pytorch_lightning.strategies import DDPStrategy

from headstart.config.train import TrainSettings
from headstart.errors import HeadstartError
from headstart.files import is_own, replacing, write_text
from headstart.machine import check_accelerator, fault_of_machine
from headstart.model.checkpoint import read_checkpoint, save
from headstart.processes import world_size
from headstart.run_folder import RunFolder
from headstart.training.callbacks.best_and_last import BestAndLast, BestOnly
from headstart.training.callbacks.history import Clock, History, HParams, Unfreezing
from headstart.training.callbacks.progress import BARS, Progress
from headstart.training.jobs import cluster_environment

LIGHTNING = ("pytorch_lightning", "lightning_fabric")
# With these Lightning says what is wrong; other exceptions, or those of a package that it uses, need their traceback.
EXPLAINED = (MisconfigurationException, TypeError, ValueError, RuntimeError, ImportError, NotImplementedError)


@contextmanager
def lightning_errors(settings: TrainSettings) -> Iterator[None]:
    """Turns what Lightning raises in the block into one sentence; what headstart's own code raises passes.

    Where the sentence may not be enough, the traceback is in the run's folder.

    Raises:
        HeadstartError: with Lightning's reason.
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        yield
    except (HeadstartError, BrokenPipeError):
        raise
    except SystemExit as ended:
        # On Ctrl-C Lightning ends by itself, with status 1.
        if isinstance(ended.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        if fault_of_machine(error):
            raise
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if not _is_lightnings(frames):
            raise
        sentence = f"{_culprit(frames, settings)} rejected by Lightning: {reason_of(error)}"
        if not isinstance(error, EXPLAINED) or _package(frames[-1]) not in LIGHTNING:
            run = RunFolder(Path(settings.run_dir))
            write_text(run.traceback, traceback.format_exc())
            sentence += f" (traceback: {run.traceback})"
        raise HeadstartError(sentence) from None


def reason_of(error: BaseException) -> str:
    """Returns one line: the message, after the exception's type unless it is one that explains what is wrong."""
    message = " ".join(str(error).split())
    return message if message and isinstance(error, EXPLAINED) else f"{type(error).__name__}: {message}".rstrip(": ")


def _is_lightnings(frames: list[FrameType]) -> bool:
    """Whether Lightning, rather than code of ours, called what raised the error."""
    for frame in reversed(frames):
        package = _package(frame)
        if package in LIGHTNING:
            return True
        is_outside = "site-packages" in frame.f_code.co_filename or package in sys.stdlib_module_names
        if package == "headstart" or not is_outside:
            return False
    return False


def _culprit(frames: list[FrameType], settings: TrainSettings) -> str:
    """Returns "callbacks.timer was", "trainer.profiler=simple was", or "the trainer settings were"."""
    for frame in reversed(frames):
        instance: Any = frame.f_locals.get("self")
        if isinstance(instance, Profiler):
            return f"trainer.profiler={settings.trainer.get('profiler')} was"
        if isinstance(instance, Callback | Logger) and (key := _key(type(instance), settings)):
            return f"{key} was"
    return "the trainer settings were"


def _key(kind: type, settings: TrainSettings) -> str | None:
    """Returns the key of the entry that names the class `kind` or a base of it; None: the Trainer created it itself."""
    names = {base.__name__ for base in kind.__mro__}
    for group, entries in (("callbacks", settings.callbacks), ("logger", settings.logger)):
        for name, entry in entries.items():
            if entry is not None and str(entry["_target_"]).rpartition(".")[2] in names:
                return f"{group}.{name}"
    return None


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


# Of Lightning's messages, those that a setting asks for.
ASKED_FOR = ("pytorch_lightning.callbacks.model_summary", "pytorch_lightning.callbacks.timer")
PROFILERS: dict[Any, Any] = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}
# What Lightning's CSVLogger replaces.
CSV_FILES = ("metrics.csv", "hparams.yaml")
# What Lightning's loggers need, which it does not install.
PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet-ml", "NeptuneLogger": "neptune"}
# What a _target_ may be. A resumed run repeats the overrides it finds in a folder, which may be somebody else's.
TARGETS = ["pytorch_lightning.callbacks.*", "pytorch_lightning.loggers.*", "headstart.*"]


class SafeCheckpointIO(TorchCheckpointIO):
    """Lightning's own puts its temporary file elsewhere, perhaps on another disk, where a rename is a slow copy."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        if isinstance(path, io.BytesIO):
            torch.save(checkpoint, path)
            return
        with replacing(Path(path)) as temporary:
            save(checkpoint, temporary)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: Any = None) -> dict[str, Any]:
        return read_checkpoint(Path(path))


def build_trainer(settings: TrainSettings, callbacks: Sequence[Callback] = ()) -> Trainer:
    """Returns a Trainer with `callbacks`, those of the configuration and its loggers, and those that record each epoch.

    Called within `lightning_errors`, for Lightning may reject a value.

    Raises:
        HeadstartError: an entry of the configuration is invalid.
    """
    _quieten_lightning()
    check_accelerator(str(settings.trainer.get("accelerator", "auto")))
    run = RunFolder(Path(settings.run_dir))
    configured, loggers = _instantiate("callbacks", settings.callbacks), _instantiate("logger", settings.logger)
    _give_places(configured, run)
    _check_files(loggers)
    if any(isinstance(callback, BestAndLast) for callback in callbacks):
        # It takes the place of the one that is configured.
        configured = {name: entry for name, entry in configured.items() if not isinstance(entry, BestAndLast)}
    keeps_best = any(isinstance(callback, BestAndLast) for callback in (*callbacks, *configured.values()))
    added = [*_recording(settings, callbacks, run), *([] if keeps_best else [BestOnly("valid/loss")])]
    if settings.trainer.get("enable_progress_bar", True) and not _has_lightnings_bar(list(configured.values())):
        added.append(Progress())
    trainer = Trainer(
        **_arguments(settings, list(configured.values()), run),
        callbacks=[*callbacks, *added, *configured.values()],
        logger=list(loggers.values()) or False,
        plugins=[SafeCheckpointIO(), cluster_environment()],
        # Each epoch has a view of its own, which is encoded when its loader is created.
        reload_dataloaders_every_n_epochs=int(settings.features.cache),
        default_root_dir=settings.run_dir,
        # headstart.data.dataset shards by itself.
        use_distributed_sampler=False,
    )
    # Private, for Lightning cannot be told otherwise: on SIGTERM it would wait for the other processes, which wait for
    # this one. See headstart.training.fit.
    trainer._signal_connector._sigterm_notifier_fn = lambda *arguments: None  # type: ignore[method-assign]
    return trainer


def _recording(settings: TrainSettings, callbacks: Sequence[Callback], run: RunFolder) -> list[Callback]:
    """Returns the callbacks that record each epoch of any run."""
    trains_backbone = settings.finetune.first_epoch is not None
    # The features of a backbone that is trained itself cannot be cached.
    clock = Clock(cached=settings.features.cache or trains_backbone)
    history = History(run.history, clock)
    recording: list[Callback] = [clock, history, *([Unfreezing(history)] if trains_backbone else [])]
    if not any(isinstance(callback, HParams) for callback in callbacks):
        recording.append(HParams())
    return recording


def _arguments(settings: TrainSettings, configured: list[Callback], run: RunFolder) -> dict[str, Any]:
    """Returns the settings of the Trainer, and what follows from the callbacks that are `configured`."""
    arguments: dict[str, Any] = settings.trainer | {"strategy": _strategy(settings)}
    # Instead of Lightning's bar there is headstart's, unless the user has added one of Lightning's callbacks.
    arguments["enable_progress_bar"] = _has_lightnings_bar(configured)
    if any(isinstance(callback, ModelSummary) for callback in configured):
        arguments["enable_model_summary"] = True
    if arguments.get("profiler") in PROFILERS:
        # Otherwise its report would be among Lightning's messages, which are not shown.
        arguments["profiler"] = PROFILERS[arguments["profiler"]](dirpath=run.path, filename="profile")
    return arguments


def _has_lightnings_bar(configured: list[Callback]) -> bool:
    return any(isinstance(callback, ProgressBar) for callback in configured)


def _strategy(settings: TrainSettings) -> Any:
    """Returns Lightning's DDP, once there are several processes."""
    name = str(settings.trainer.get("strategy", "auto"))
    if world_size() == 1:
        # For Lightning these mean the same until several processes are joined.
        return "auto" if name.startswith("ddp") else name
    return DDPStrategy(
        # Stages that are unfrozen later have no gradients before.
        find_unused_parameters=name.endswith("_true") or settings.finetune.first_epoch is not None,
        # They stay the same, but BatchNorm's: see Classifier.on_validation_epoch_start.
        broadcast_buffers=False,
    )


def _give_places(configured: dict[str, Callback], run: RunFolder) -> None:
    """Lets the checkpoints of Lightning's ModelCheckpoint have a folder of their own, below headstart's."""
    for name, callback in configured.items():
        if isinstance(callback, ModelCheckpoint):
            place = callback.dirpath or run.best.parent / name
            if Path(place).absolute() == run.best.parent.absolute():
                raise HeadstartError(f"callbacks.{name}.dirpath={place} is where headstart keeps its own checkpoints")
            callback.dirpath = str(place)


def _check_files(loggers: dict[str, Logger]) -> None:
    """Raises HeadstartError if Lightning's CSVLogger would replace files that are not a run's."""
    for name, logger in loggers.items():
        paths = [Path(logger.log_dir, file) for file in CSV_FILES] if isinstance(logger, CSVLogger) else []
        for path in paths:
            if path.exists() and not is_own(path):
                raise HeadstartError(f"logger.{name} would replace {path}: choose another save_dir, name or version")


def _instantiate(group: str, entries: dict[str, Any]) -> dict[str, Any]:
    """Returns the objects that the entries of conf/callbacks or conf/logger describe, by their names."""
    kind: type = Callback if group == "callbacks" else Logger
    created = {}
    for name, entry in entries.items():
        if entry is None:
            continue
        try:
            # Lightning's bars would count epochs from 0.
            target = BARS.get(str(entry["_target_"]).rpartition(".")[2], entry["_target_"])
            created[name] = instantiate(entry | {"_target_": target}, _execution_whitelist_=TARGETS, _convert_="all")
        except HeadstartError:
            raise
        except Exception as error:
            package = PACKAGES.get(str(entry["_target_"]).rpartition(".")[2])
            if package and isinstance(error.__cause__ or error, ModuleNotFoundError):
                raise HeadstartError(f"{group}.{name} needs {package}: python -m pip install {package}") from None
            raise HeadstartError(f"{group}.{name} is invalid: {_reason(error)}") from None
        if not isinstance(created[name], kind):
            raise HeadstartError(f"{group}.{name} is invalid: {entry['_target_']} is no {kind.__name__} of Lightning")
    return created


def _reason(error: Exception) -> str:
    """Returns the cause of an error of Hydra's, which names the class and the exception, unless there is none."""
    own = isinstance(error, InstantiationException) and error.__cause__ is not None
    return reason_of(error.__cause__ if own and error.__cause__ is not None else error)


def _quieten_lightning() -> None:
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in ASKED_FOR:
        logging.getLogger(name).setLevel(logging.INFO)
    for text in (
        # headstart logs once per epoch, and chooses the number of its workers.
        ".*smaller than the logging interval.*",
        ".*does not have many workers.*",
        # A closed-form head needs none.
        ".*configure_optimizers` returned `None`.*",
        # The frozen backbone is meant to be in eval mode.
        r".*module\(s\) in eval mode at the start of training.*",
        # Metrics are computed from what all processes have gathered.
        ".*to accumulate the metric across devices.*",
        # Its successor is not in all supported versions of PyTorch.
        ".*broadcast_buffers.*",
        # Of callbacks=ema: there is one copy of the weights, and nothing is sharded.
        ".*with a model that overrides the configure_model.*",
        # Internal to Lightning.
        ".*treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=text)


class TrackedRuns:
    """The runs that a training opens in trackers, from before it starts until `end`.

    Lightning's WandbLogger leaves its run open and, in the same process, takes any open run for its own: the next
    training would be logged to it. A run that was open before is the surrounding program's, and stays open.
    """

    def __init__(self) -> None:
        self._before = _open_wandb_run()
        self.loggers: Sequence[Logger] = ()

    def add_outcome(self, metrics: Mapping[str, float], page: Path) -> None:
        """Gives each tracker the final metrics of the training, which are those of its best epoch, and its page."""
        for logger in self.loggers:
            if isinstance(logger, WandbLogger):
                _to_wandb(logger.experiment, metrics, page)
            elif isinstance(logger, MLFlowLogger):
                _to_mlflow(logger, metrics, page)

    def end(self, *, failed: bool) -> None:
        """Ends the run that Lightning has opened in Weights & Biases; it ends that of MLflow itself."""
        run = _open_wandb_run()
        if run is not None and run is not self._before:
            run.finish(exit_code=int(failed))


def _to_wandb(run: Any, metrics: Mapping[str, float], page: Path) -> None:
    # It was imported by the logger, and takes seconds.
    import wandb

    if page.is_file():
        run.log({"report": wandb.Html(str(page), inject=False)})
    # The summary, by which runs are compared, would have the last epoch's.
    run.summary.update(dict(metrics))


def _to_mlflow(logger: MLFlowLogger, metrics: Mapping[str, float], page: Path) -> None:
    # Of each metric, runs are compared by the latest value.
    for name, value in metrics.items():
        logger.experiment.log_metric(logger.run_id, name, value, step=int(metrics.get("epochs", 0)))
    if page.is_file():
        logger.experiment.log_artifact(logger.run_id, str(page), "report")


def _open_wandb_run() -> Any:
    return getattr(sys.modules.get("wandb"), "run", None)
