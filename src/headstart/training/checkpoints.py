"""Which checkpoints a run keeps: best.ckpt and last.ckpt."""

import math
import shutil
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from headstart.errors import HeadstartError
from headstart.files import replacing


def is_trial_run(trainer: Trainer) -> bool:
    """Whether the Trainer was told `fast_dev_run`: a few batches, and nothing of them is to be kept."""
    return bool(getattr(trainer, "fast_dev_run", False))


class BestAndLast(Checkpoint):
    """Saves checkpoints/best.ckpt, of the epoch with the best `monitor`, and checkpoints/last.ckpt after each epoch.

    last.ckpt is there from the first batch on and always stands between two epochs: wherever a run is killed, a
    resumed one repeats the epoch it was in from its start, and ends as if nothing had happened. (Lightning's
    ModelCheckpoint forgets the best score when the run goes on in another folder.)
    """

    def __init__(self, monitor: str, mode: str) -> None:
        if mode not in ("min", "max"):
            raise HeadstartError(f"callbacks.checkpoint.mode={mode} cannot work: it must be min or max")
        self.monitor = monitor
        self.best_score: float | None = None
        self.best_epoch: int | None = None
        self._sign = 1 if mode == "min" else -1
        self._folder = Path()

    @property
    def best_path(self) -> Path | None:
        """The checkpoint of the best epoch; None as long as `monitor` never was a number."""
        return self._folder / "best.ckpt" if self.best_epoch is not None else None

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_epoch = state_dict["best_score"], state_dict["best_epoch"]

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._folder = Path(trainer.default_root_dir) / "checkpoints"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not when the training starts: it does not, if the checkpoint was written after the last epoch.
        if trainer.ckpt_path is not None and trainer.is_global_zero:
            self._take_over(Path(trainer.ckpt_path))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is None:
            self._save(trainer, "last.ckpt")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # An epoch without validation has the value of an earlier one, or none: it is never better.
        score = float(trainer.callback_metrics.get(self.monitor, math.nan))
        best = math.inf if self.best_score is None else self._sign * self.best_score
        # The best checkpoint first: last.ckpt names it, and must not be there without it.
        if self._sign * score < best:
            self.best_score, self.best_epoch = score, trainer.current_epoch
            self._save(trainer, "best.ckpt")
        self._save(trainer, "last.ckpt")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        last = self._folder / "last.ckpt"
        if isinstance(exception, KeyboardInterrupt | SystemExit) and trainer.is_global_zero and last.exists():
            print(f"stopped; to go on: python train.py ckpt_path={last}", file=sys.stderr)

    def _save(self, trainer: Trainer, name: str) -> None:
        if not is_trial_run(trainer):
            trainer.save_checkpoint(self._folder / name)

    def _take_over(self, checkpoint: Path) -> None:
        """Begins the folder of a resumed run with the checkpoints of the run it goes on with."""
        taken = {"last.ckpt": checkpoint}
        if self.best_epoch is not None:
            best = checkpoint.with_name("best.ckpt")
            if not best.exists():
                raise HeadstartError(
                    f"{best} is missing: the best epoch so far ({self.best_epoch + 1}) is kept there, and the resumed "
                    "run may not find a better one"
                )
            taken["best.ckpt"] = best
        for name, source in taken.items():
            with replacing(self._folder / name) as temporary:
                shutil.copyfile(source, temporary)
