"""Records each epoch: its seconds, metrics, hyperparameters, and the stages that were unfrozen."""

import csv
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import NormalDist
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from headstart.backbones.backbone import Backbone
from headstart.config.train import TrainSettings
from headstart.files import write_csv
from headstart.log import log
from headstart.metrics import METRICS, SIGNIFICANT, UNFROZEN, Row, best_row, full_names
from headstart.model.classifier import Classifier, unfrozen_stages
from headstart.training.callbacks.best_and_last import BestAndLast
from headstart.training.callbacks.progress import FIRST, epoch_number

# Shorter epochs, in seconds, need no advice.
WORTH_ADVICE = 5.0


@dataclass
class Seconds:
    """Counts the time that epochs took, validation included, by what it was spent on.

    On a GPU, which works asynchronously, some of `train` is counted as `wait`.
    """

    encode: float = 0.0
    wait: float = 0.0
    train: float = 0.0

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.encode + other.encode, self.wait + other.wait, self.train + other.train)

    @property
    def all(self) -> float:
        """Returns their sum."""
        return self.encode + self.wait + self.train

    def __str__(self) -> str:
        return f"encoding {self.encode:.1f} s, waiting for batches {self.wait:.1f} s, training {self.train:.1f} s"


class Clock(Callback):
    """Measures each epoch. Views are encoded before the first batch is asked for, so nothing is counted twice."""

    def __init__(self, *, cached: bool) -> None:
        self.epoch = Seconds()  # the last one
        self.total = Seconds()
        self._cached = cached
        self._advised = False
        self._encoded = 0.0
        self._current = Seconds()
        self._mark = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._current = Seconds()
        self._mark = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_batch_start(self, *arguments: Any) -> None:
        self._current.wait += self._lap()

    def on_validation_batch_start(self, *arguments: Any) -> None:
        self._current.wait += self._lap()

    def on_train_batch_end(self, *arguments: Any) -> None:
        self._current.train += self._lap()

    def on_validation_batch_end(self, *arguments: Any) -> None:
        self._current.train += self._lap()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        encoded = float(getattr(trainer.datamodule, "encode_seconds", 0.0))  # type: ignore[attr-defined]
        self._current.encode, self._encoded = encoded - self._encoded, encoded
        self.epoch = self._current
        self.total += self._current

    def advice(self) -> str | None:
        """Returns what to change if the epoch was long and one part of it dominated; given once."""
        seconds = self.epoch
        whole = seconds.all
        if self._advised or whole < WORTH_ADVICE:
            return None
        advice = None
        if seconds.wait > whole / 2:
            advice = "most of the time is spent reading images: increase data.num_workers, or use smaller images"
        elif seconds.train > whole / 2 and not self._cached:
            advice = "the backbone takes most of the time, in every run again: features.cache=true stores its features"
        self._advised = advice is not None
        return advice

    def _lap(self) -> float:
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before


SPLITS = ("train", "valid")
CHARTS = {
    "train and valid": {
        metric.label: ["Multiline", [f"{split}/{name}" for split in SPLITS]] for name, metric in METRICS.items()
    }
}


class History(Callback):
    """Collects one row per epoch: its number, every metric of train and valid, lr if there is one, and in a run that
    trains the backbone too, how many of its stages are unfrozen. Checkpoints hold the rows so far.

    `clock` must come before this callback, so that it has measured the epoch.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.rows: list[Row] = []
        self.clock = clock
        self._path = path
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(CHARTS)
        # A resumed run's folder and charts start with the epochs before.
        for row in self.rows:
            self._log(trainer, row)
        if self.rows and trainer.is_global_zero:
            write_history(self._path, self.rows)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log_train_metrics()  # type: ignore[operator]
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        row = _beginning(epoch_number(trainer), rates[0] if rates else None, pl_module)
        for name, value in sorted(trainer.callback_metrics.items()):
            # After an epoch without validation the metrics still hold those of an earlier one.
            if name.startswith("train/") or (name.startswith("valid/") and self._validated):
                row[name] = float(value)
        self._validated = False
        self.rows.append(row)
        self._log(trainer, row)
        if trainer.is_global_zero:
            write_history(self._path, self.rows)
            seconds = self.clock.epoch.all
            say(trainer, f"{describe(row, trainer.max_epochs)}  {seconds:.{1 if seconds < 99.95 else 0}f} s")
            if advice := self.clock.advice():
                say(trainer, f"note: {advice}")

    def _log(self, trainer: Trainer, row: Row) -> None:
        values = {key: value for key, value in row.items() if key != "epoch"}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=int(row["epoch"]))


def say(trainer: Trainer, line: str) -> None:
    """Logs a line; above the progress bar, if there is one."""
    bar = trainer.progress_bar_callback
    bar.print(line) if bar is not None else log.info("%s", line)


def _beginning(epoch: float, lr: float | None, pl_module: LightningModule) -> Row:
    """Returns the first columns of an epoch's row."""
    row: Row = {"epoch": int(epoch)} if lr is None else {"epoch": int(epoch), "lr": lr}
    classifier = cast(Classifier, pl_module)
    finetune = classifier.recipe.finetune
    if finetune.first_epoch is None:
        return row
    return row | {UNFROZEN: unfrozen_stages(finetune, int(epoch) - FIRST, len(classifier.backbone.stages))}


def write_history(path: Path, rows: list[Row]) -> None:
    """Writes the rows to `path` as CSV, the columns in the order in which they first occur."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    write_csv(path, columns, ([row.get(key) for key in columns] for row in rows))


def read_history(path: Path) -> list[Row]:
    """Returns the rows that `write_history` has written to `path`."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def describe(row: Row, max_epochs: int | None) -> str:
    """Returns one line, such as "epoch 3/20  train loss 0.2101 acc 0.932  valid loss 0.1450 acc 0.950"."""
    end = f"/{max_epochs}" if max_epochs and max_epochs > 0 else ""
    parts = [f"epoch {int(row['epoch'])}{end}"]
    for split in SPLITS:
        if f"{split}/loss" in row:
            parts.append(f"{split} loss {row[f'{split}/loss']:.4f} acc {row[f'{split}/acc']:.3f}")
    return "  ".join(parts)


Value = float | str


class HParams(Callback):
    """Gives loggers the hyperparameters `values` (None: the settings'), and TensorBoard the best epoch's metrics.

    The HParams tab reads these from charts, so they are drawn for each epoch, as those of the best one so far.
    """

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        self._given = values
        self._values: dict[str, Value] = {}
        self._drawn = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._drawn = 0
        self._values = hyperparameters(trainer.datamodule.settings) if self._given is None else dict(self._given)  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # Written to hparams.yaml before the fit ends, when they are logged with the metrics.
                logger.hparams.update(self._values)
            else:
                logger.log_hyperparams(self._values)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not when an epoch ends: that may be before its row exists.
        self._draw(trainer, len(history_of(trainer)))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = history_of(trainer)
        if not rows:
            return
        self._draw(trainer, len(rows) - 1)
        for logger in _tensorboards(trainer):
            logger.log_hyperparams(self._values, _best(trainer, rows), step=int(rows[-1]["epoch"]))
            logger.save()

    def _draw(self, trainer: Trainer, count: int) -> None:
        """Draws the first `count` epochs, as far as they are not drawn yet."""
        rows = history_of(trainer)
        for number in range(self._drawn, count):
            for logger in _tensorboards(trainer):
                logger.log_metrics(_best(trainer, rows[: number + 1]), step=int(rows[number]["epoch"]))
        self._drawn = max(count, self._drawn)


def hyperparameters(settings: TrainSettings) -> dict[str, Value]:
    """Returns the settings of a run that people compare runs by."""
    names = ("arch", "head", "lr", "dropout", "hidden_dim", "weight_decay", "label_smoothing", "schedule")
    values: dict[str, Value | None] = {
        **{f"model.{name}": getattr(settings.model, name) for name in names},
        "data.batch_size": settings.data.batch_size,
        "data.balance": settings.data.balance,
        "finetune": settings.finetune.kind,
        "trainer.max_epochs": settings.trainer.get("max_epochs"),
        "seed": settings.seed,
    }
    return {key: value for key, value in values.items() if value is not None}


def swept(values: Mapping[str, str]) -> dict[str, Value]:
    """Returns the values of a trial's swept keys, as written on a command line; numbers as such."""
    return {key: _number_or_text(text) for key, text in values.items()}


def _number_or_text(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text


def history_of(trainer: Trainer) -> list[Row]:
    """Returns the rows of all completed epochs, those before the run was resumed included."""
    return next((callback.rows for callback in trainer.callbacks if isinstance(callback, History)), [])  # type: ignore[attr-defined]


def _tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _best(trainer: Trainer, rows: list[Row]) -> Row:
    """Returns the validation metrics of the best of `rows`, by what selects the best checkpoint."""
    monitors = [callback.monitor for callback in trainer.checkpoint_callbacks if isinstance(callback, BestAndLast)]
    best = best_row(rows, monitors[0]) if monitors else None
    return {f"best/{name}": value for name, value in (best or {}).items() if name in full_names("valid")}


# What fine-tuning did: when each stage of the backbone was unfrozen, and whether it helped.

COMPARED = "valid/loss"


class Unfreezing(Callback):
    """Logs one line in each epoch that unfreezes stages, and one at the end that compares the epochs before and after.

    `history` has the epochs' metrics. The losses of each valid image in the best epoch before the first unfreezing, and
    in the best one after it, are kept in checkpoints: whether they differ by more than chance is a paired test.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._losses: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._losses}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._losses = state_dict["losses"]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier = cast(Classifier, pl_module)
        if trainer.sanity_checking or (losses := classifier.valid_losses) is None:
            return
        stages = unfrozen_stages(classifier.recipe.finetune, trainer.current_epoch, len(classifier.backbone.stages))
        phase = "tuned" if stages else "frozen"
        if phase not in self._losses or losses.mean() < self._losses[phase].mean():
            self._losses[phase] = losses

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, epoch = cast(Classifier, pl_module), trainer.current_epoch
        finetune, stages = classifier.recipe.finetune, len(classifier.backbone.stages)
        before = unfrozen_stages(finetune, epoch - 1, stages) if epoch else 0
        now = unfrozen_stages(finetune, epoch, stages)
        if now > before and trainer.is_global_zero:
            say(trainer, f"epoch {epoch_number(trainer)}: unfroze {describe_stages(classifier.backbone, before, now)}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (line := effect_of_finetuning(self._history.rows, **self._losses)) and trainer.is_global_zero:
            say(trainer, line)


def effect_of_finetuning(rows: list[Row], frozen: Tensor | None = None, tuned: Tensor | None = None) -> str | None:
    """Returns one line that compares the best epoch before the first unfreezing with the best after it.

    `frozen` and `tuned` are the losses (N) of the valid images in these epochs. None: there were no epochs before it,
    or none after it.
    """
    first = best_row((row for row in rows if not row.get(UNFROZEN)), COMPARED)
    second = best_row((row for row in rows if row.get(UNFROZEN)), COMPARED)
    if first is None or second is None or frozen is None or tuned is None:
        return None
    before, after = (f"{row[COMPARED]:.4f} (epoch {row['epoch']:.0f})" for row in (first, second))
    p_value = _paired_p_value((tuned - frozen).double())
    verdict = "changed nothing beyond chance"
    if p_value < SIGNIFICANT:
        verdict = "helped" if tuned.mean() < frozen.mean() else "made it worse"
    return (
        f"fine-tuning {verdict}: best {COMPARED} {before} before the first stage was unfrozen, {after} after "
        f"(paired test on the valid images, p = {p_value:.2g})"
    )


def _paired_p_value(differences: Tensor) -> float:
    """Returns the two-sided p-value that the mean of differences (N) is 0, by their standard error."""
    if len(differences) < 2 or not differences.any():
        return 1.0
    error = float(differences.std()) / len(differences) ** 0.5
    return 2 * (1 - NormalDist().cdf(abs(float(differences.mean())) / max(error, 1e-12)))


def describe_stages(backbone: Backbone, before: int, now: int) -> str:
    """Returns stages `before` to `now`, counted from the top: "the top stage (layer4, 14,964,736 parameters)"."""
    added = range(before, now)
    parameters = sum(parameter.numel() for stage in added for parameter in backbone.parameters_of(stage))
    names = [_named(backbone.network, backbone.stages[-1 - stage]) for stage in added]
    if now == len(backbone.stages):
        what = "the rest of the backbone" if before else "the whole backbone"
        return f"{what} ({parameters:,} parameters)"
    which = "next" if before else "top"
    what = f"the {which} stage" if len(names) == 1 else f"the {which} {len(names)} stages"
    return f"{what} ({', '.join(names)}, {parameters:,} parameters)"


def _named(network: nn.Module, blocks: list[str]) -> str:
    """Returns "layer4" for layer4.0, layer4.1 and layer4.2 if these are all, "features.14–18" for some of many."""
    names: list[str] = []
    for parent, group in groupby(blocks, key=lambda block: block.rpartition(".")[0]):
        children = [block.rpartition(".")[2] for block in group]
        siblings = network.get_submodule(parent).named_children()
        if parent and [name for name, child in siblings if list(child.parameters())] == children:
            names.append(parent)
        elif parent and len(children) > 1:
            names.append(f"{parent}.{children[0]}–{children[-1]}")
        else:
            names += [f"{parent}.{child}".lstrip(".") for child in children]
    return ", ".join(names)
