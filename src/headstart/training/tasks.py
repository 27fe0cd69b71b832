"""What `task=` chooses: train a classifier, test one, or audit its data. Here the parts are put together."""

import sys
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_only

from headstart.data.manifest import Manifest
from headstart.data.module import PictureDataModule
from headstart.data.ready import Examined, Ready
from headstart.errors import HeadstartError
from headstart.files import write_json, write_text
from headstart.model.checkpoint import load_classifier, read_checkpoint
from headstart.model.classifier import Classifier
from headstart.report.curves import draw_curves
from headstart.report.record import RunRecord
from headstart.settings import TrainSettings
from headstart.training.auditing import (
    audit,
    looks_for_near_duplicates,
    read_data,
    report_near_duplicates,
    write_report,
)
from headstart.training.checkpoints import BestAndLast, is_trial_run
from headstart.training.clock import StageClock
from headstart.training.history import History, Row, log_hyperparameters
from headstart.training.parts import data_module, new_classifier
from headstart.training.trainer import build_trainer, lightning_refusals, sigterm_ends_with_143


def run_task(settings: TrainSettings, config: DictConfig) -> None:
    """Runs the task."""
    if settings.task == "train":
        train(settings, config)
    elif settings.task == "test":
        test(settings, config)
    elif not audit(settings):
        sys.exit(1)


def train(settings: TrainSettings, config: DictConfig, swept: dict[str, str] | None = None) -> dict[str, float]:
    """Trains a head, tests the best epoch once, writes the run's folder. Returns what is in its metrics.json.

    With `swept`, the values of the keys that are swept, it is a trial: it has nothing to do with the test set.

    Raises:
        HeadstartError: the data, the weights, the checkpoint or a setting cannot be used.
    """
    record = RunRecord(Path(settings.run_dir))
    with record.stage("data"):
        examined, ready = read_data(settings)
        manifest = ready.manifest
    with record.stage("model"):
        classifier = new_classifier(settings, manifest)
        _check_resume(settings.ckpt_path, classifier, manifest)
    # Of a backbone that is trained itself nothing can be kept.
    is_kept = settings.features.cache or settings.finetune.first_epoch is not None
    _warn_of_an_early_end(settings)
    clock = StageClock(classifier.backbone, cached=is_kept)
    history = History(record.folder / "history.csv", clock)
    trainer = build_trainer(settings, [clock, history])
    datamodule = data_module(settings, manifest, classifier)
    _begin(record, config, classifier, trainer, examined, ready)
    with record.stage("fit"), sigterm_ends_with_143(), lightning_refusals():
        trainer.fit(classifier, datamodule, ckpt_path=settings.ckpt_path)
    best_path, best_row = _best(trainer, history.rows)
    metrics = {name: value for name, value in best_row.items() if name.startswith("valid/")}
    metrics |= {"best_epoch": int(best_row["epoch"]), "epochs": len(history.rows)}
    # The test set is for the end: a sweep's trials are compared, and must not be by it.
    is_trial = swept is not None
    if "test" in manifest.splits and not is_trial:
        with record.stage("test"):
            # Not by the Trainer's ckpt_path, which would also take the callbacks back to the best epoch.
            if best_path is not None:
                classifier.restore(read_checkpoint(best_path))
            metrics |= _test(trainer, classifier, datamodule)
    if looks_for_near_duplicates(settings) and not is_trial and not is_trial_run(trainer):
        with record.stage("audit"):
            # The Trainer has taken it off its device.
            classifier.to(trainer.strategy.root_device)
            report_near_duplicates(record.folder, examined, ready, datamodule.unaugmented_features())
    with record.stage("report"):
        draw_curves(history.rows, int(best_row["epoch"]), record.folder / "report" / "curves.png")
    if swept is not None:
        log_hyperparameters(trainer.loggers, swept, metrics)
    _finish(record, metrics)
    return metrics


def test(settings: TrainSettings, config: DictConfig) -> None:
    """Scores the checkpoint `ckpt_path` on the test split of the data."""
    record = RunRecord(Path(settings.run_dir))
    checkpoint = Path(str(settings.ckpt_path))
    with record.stage("model"):
        classifier = load_classifier(checkpoint, settings.features, moved_to=settings.model.weights)
    with record.stage("data"):
        examined, ready = read_data(settings)
        manifest = ready.manifest
    _warn_of_other_data(classifier.recipe.data_fingerprint, manifest)
    if "test" not in manifest.splits:
        raise HeadstartError(f"{manifest.root} has no test split")
    if manifest.classes != classifier.recipe.classes:
        raise HeadstartError(
            f"{manifest.root} has the classes {', '.join(manifest.classes)}; the checkpoint knows "
            f"{', '.join(classifier.recipe.classes)}"
        )
    trainer = build_trainer(settings, [])
    datamodule = data_module(settings, manifest, classifier)
    _begin(record, config, classifier, trainer, examined, ready)
    with record.stage("test"):
        metrics = _test(trainer, classifier, datamodule)
    _finish(record, metrics)


def _check_resume(ckpt_path: str | None, classifier: Classifier, manifest: Manifest) -> None:
    """What Lightning would find out only after the run has begun to write."""
    if ckpt_path is None:
        return
    checkpoint = read_checkpoint(Path(ckpt_path))
    classifier.check_same_recipe(checkpoint["hyper_parameters"])
    _warn_of_other_data(checkpoint["hyper_parameters"]["data_fingerprint"], manifest)


@rank_zero_only
def _warn_of_an_early_end(settings: TrainSettings) -> None:
    last, epochs = settings.finetune.last_epoch, settings.trainer.get("max_epochs")
    if last is not None and epochs is not None and 0 <= epochs <= last:
        print(
            f"warning: trainer.max_epochs={epochs} ends before all stages are trained that finetune frees: the last of "
            f"them would be from epoch {last + 1} on",
            file=sys.stderr,
        )


def _warn_of_other_data(trained_on: str, manifest: Manifest) -> None:
    if trained_on != manifest.fingerprint:
        print(
            "warning: these are not the data that the checkpoint was trained with: they have changed, or are split "
            "in another way, and its training pictures may be among those of the test",
            file=sys.stderr,
        )


@rank_zero_only
def _begin(
    record: RunRecord, config: DictConfig, classifier: Classifier, trainer: Trainer, examined: Examined, ready: Ready
) -> None:
    """The first files of the run."""
    record.begin(
        trainer.strategy.root_device,
        backbone=classifier.recipe.as_dict()["backbone"],
        data_fingerprint=ready.manifest.fingerprint,
        skipped=ready.skipped,
        dropped=ready.dropped,
    )
    write_text(record.folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    write_report(record.folder, examined, ready)
    _say(f"run folder: {record.folder}")


def _best(trainer: Trainer, rows: list[Row]) -> tuple[Path | None, Row]:
    """The best epoch's checkpoint and row; without checkpoints the last row, which the weights in memory belong to."""
    keeper = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestAndLast)), None)
    if keeper is None or is_trial_run(trainer):
        return None, rows[-1]
    if keeper.best_path is None:
        raise HeadstartError(f"{keeper.monitor} was never a number: try a smaller model.lr, or validate more often")
    return keeper.best_path, next(row for row in rows if row["epoch"] == keeper.best_epoch)


def _test(trainer: Trainer, classifier: Classifier, datamodule: PictureDataModule) -> dict[str, float]:
    with lightning_refusals():
        trainer.test(classifier, datamodule, verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("test/")}


@rank_zero_only
def _finish(record: RunRecord, metrics: dict[str, Any]) -> None:
    record.end()
    write_json(record.folder / "metrics.json", metrics | {"seconds": record.seconds()})
    named = [
        f"{name} {metrics[name]:.4f}"
        for name in ("valid/loss", "valid/acc", "test/loss", "test/acc")
        if name in metrics
    ]
    epoch = f"best epoch {metrics['best_epoch'] + 1}: " if "best_epoch" in metrics else ""
    _say(f"{epoch}{'  '.join(named)}  ({record.seconds():.0f} s)")


@rank_zero_only
def _say(line: str) -> None:
    print(line, flush=True)
