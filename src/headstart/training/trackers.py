"""The runs of Weights & Biases and MLflow: one per training, with its outcome and its report."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger, MLFlowLogger, WandbLogger


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
