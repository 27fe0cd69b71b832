"""Keeps the checkpoints of a run: best.ckpt and last.ckpt."""

import io
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any, cast

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from headstart.errors import HeadstartError
from headstart.files import replacing
from headstart.log import command, log
from headstart.metrics import is_better, metric_of, worst_value
from headstart.model.checkpoint import read_checkpoint
from headstart.model.classifier import Classifier
from headstart.processes import from_first
from headstart.run_folder import RunFolder, run_folder_of
from headstart.training.callbacks.progress import epoch_number


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Whether the Trainer runs a few batches only, of which nothing is to be kept."""
    return bool(getattr(trainer, "fast_dev_run", False))


class BestAndLast(Checkpoint):
    """Saves checkpoints/best.ckpt, of the epoch with the best `monitor`, and checkpoints/last.ckpt after each epoch.

    last.ckpt exists from the first batch and is always from between two epochs: wherever a run is killed, a resumed
    one repeats the epoch from its start, and ends as if it had not been interrupted. After a fit the module has the
    weights of the best epoch. (Lightning's ModelCheckpoint forgets the best score when a run resumes elsewhere.)
    """

    def __init__(self, monitor: str, mode: str | None = None) -> None:
        if mode not in (None, metric_of(monitor).direction):
            raise HeadstartError(f"mode={mode} contradicts monitor={monitor}: leave it out")
        self.monitor = monitor
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self.epoch_of_weights = 0  # after a fit: the epoch whose weights the module has
        self.run = RunFolder(Path())
        self._is_measured = False

    @property
    def state_key(self) -> str:
        return BestAndLast.__qualname__  # also that of BestOnly, with which a run may be resumed

    def state_dict(self) -> dict[str, Any]:
        return {"monitor": self.monitor, "best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if not self._is_comparable(state_dict):
            log.warning(
                "the best epoch so far, by %s, is forgotten: it now is by %s", state_dict["monitor"], self.monitor
            )
            return
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.run = RunFolder(Path(trainer.default_root_dir))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        # Now, before a callback writes into the run's folder.
        state, best = checkpoint["callbacks"].get(self.state_key, {}), run_folder_of(Path(str(trainer.ckpt_path))).best
        if self._is_comparable(state) and state.get("best_epoch") is not None and not best.exists():
            raise HeadstartError(
                f"{best} is missing: it holds the best epoch so far ({state['best_epoch']}), and the resumed run may "
                "not find a better one"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not when training starts: it does not, if the checkpoint was written after the last epoch.
        if trainer.ckpt_path is not None and trainer.is_global_zero:
            self._take_over(Path(trainer.ckpt_path))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is None:
            self._save(trainer, self.run.last)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_measured |= self.monitor in trainer.callback_metrics
        # In an epoch without validation the value is that of an earlier one, or missing: it is never better.
        score = float(trainer.callback_metrics.get(self.monitor, math.nan))
        best = worst_value(self.monitor) if self.best_score is None else self.best_score
        # The best checkpoint first: last.ckpt names it, and must not exist without it.
        if is_better(self.monitor, score, best):
            self.best_score, self.best_epoch = score, epoch_number(trainer)
            self._save(trainer, self.run.best)
        self._save(trainer, self.run.last)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epoch_of_weights = epoch_number(trainer) - 1
        if is_fast_dev_run(trainer):
            return
        if self.best_epoch is None:
            self._on_missing_best(cast(Classifier, pl_module))
        else:
            self.epoch_of_weights = self.best_epoch
            # Other machines need not see the folder.
            checkpoint = read_checkpoint(self.run.best) if trainer.is_global_zero else {}
            cast(Classifier, pl_module).restore(from_first(checkpoint))

    def _on_missing_best(self, classifier: Classifier) -> None:
        if self._is_measured:
            advice = "" if classifier.recipe.is_closed_form else ": try a smaller model.lr"
            raise HeadstartError(f"{self.monitor} was NaN in every epoch{advice}")
        raise HeadstartError(f"no epoch has a {self.monitor}: the training ended before its first validation")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if isinstance(exception, KeyboardInterrupt | SystemExit) and self.run.last.exists():
            log.warning("stopped; to resume: %s", command("train.py", [f"ckpt_path={self.run.last}"]))

    def _is_comparable(self, state: dict[str, Any]) -> bool:
        """Whether the scores of an earlier run, with this `state`, are of the same metric."""
        return bool(state.get("monitor", self.monitor) == self.monitor)

    def _save(self, trainer: Trainer, path: Path) -> None:
        if not is_fast_dev_run(trainer):
            trainer.save_checkpoint(path)

    def _take_over(self, checkpoint: Path) -> None:
        """Starts the folder of a resumed run with the checkpoints of the earlier run."""
        taken = {self.run.last: checkpoint}
        if self.best_epoch is not None:
            taken[self.run.best] = run_folder_of(checkpoint).best
        for path, source in taken.items():
            with replacing(path) as temporary:
                shutil.copyfile(source, temporary)


class BestOnly(BestAndLast):
    """Keeps the best epoch in a temporary folder, for runs with `callbacks.checkpoint=null`."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.run = RunFolder(Path(from_first(self._folder.name)))

    def _on_missing_best(self, classifier: Classifier) -> None:
        """Does nothing: without validation there is no best epoch, and the latest weights stay."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_end(trainer, pl_module)
        self._folder.cleanup()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._folder.cleanup()


class BestOfTrial(BestAndLast):
    """Keeps the best epoch in memory, and writes best.ckpt once, at the end.

    There is no last.ckpt: a trial of a sweep is not resumed, but run again.
    """

    _best: io.BytesIO | None = None

    def _save(self, trainer: Trainer, path: Path) -> None:
        if path == self.run.best:
            self._best = io.BytesIO()
            trainer.save_checkpoint(self._best)  # type: ignore[arg-type]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._best is not None:
            with replacing(self.run.best) as temporary:
                temporary.write_bytes(self._best.getvalue())
        super().on_fit_end(trainer, pl_module)
