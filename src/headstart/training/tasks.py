"""What `task=` chooses: train a classifier, or test one. Here the parts are put together."""

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import Trainer
from pytorch_lightning.utilities import rank_zero_only

from headstart.data.manifest import Manifest, scan
from headstart.data.module import PictureDataModule, check_all_readable
from headstart.data.transforms import Preprocessing
from headstart.errors import HeadstartError
from headstart.features.encoder import Encoder
from headstart.features.store import FeatureStore, default_folder
from headstart.files import write_json, write_text
from headstart.model.checkpoint import load_classifier, read_checkpoint
from headstart.model.classifier import Classifier, Recipe
from headstart.model.weights import load_backbone
from headstart.report.curves import draw_curves
from headstart.report.record import RunRecord
from headstart.settings import TrainSettings
from headstart.training.checkpoints import BestAndLast, is_trial_run
from headstart.training.clock import StageClock
from headstart.training.history import History, Row
from headstart.training.trainer import build_trainer, lightning_refusals, sigterm_ends_with_143


def run_task(settings: TrainSettings, config: DictConfig) -> float | None:
    """Runs the task; returns the best valid/loss of a training, for a sweep to minimise."""
    if settings.task == "test":
        test(settings, config)
        return None
    return train(settings, config)


def train(settings: TrainSettings, config: DictConfig) -> float:
    """Trains a head, tests the best epoch once, writes the run's folder. Returns the best valid/loss.

    Raises:
        HeadstartError: the data, the weights, the checkpoint or a setting cannot be used.
    """
    record = RunRecord(Path(settings.run_dir))
    with record.stage("data"):
        manifest = _read_data(settings)
    with record.stage("model"):
        classifier = _new_classifier(settings, manifest)
        _check_resume(settings.ckpt_path, classifier, manifest)
    clock = StageClock(classifier.backbone, cached=settings.features.cache)
    history = History(record.folder / "history.csv", clock)
    trainer = build_trainer(settings, [clock, history])
    datamodule = _data_module(settings, manifest, classifier)
    _begin(record, config, classifier, trainer, manifest)
    with record.stage("fit"), sigterm_ends_with_143(), lightning_refusals():
        trainer.fit(classifier, datamodule, ckpt_path=settings.ckpt_path)
    best_path, best_row = _best(trainer, history.rows)
    metrics = {name: value for name, value in best_row.items() if name.startswith("valid/")}
    metrics |= {"best_epoch": int(best_row["epoch"]), "epochs": len(history.rows)}
    # The test set is for the end: a sweep's trials are compared, and must not be by it.
    if "test" in manifest.splits and HydraConfig.get().mode != RunMode.MULTIRUN:
        with record.stage("test"):
            # Not by the Trainer's ckpt_path, which would also take the callbacks back to the best epoch.
            if best_path is not None:
                classifier.restore(read_checkpoint(best_path))
            metrics |= _test(trainer, classifier, datamodule)
    with record.stage("report"):
        draw_curves(history.rows, int(best_row["epoch"]), record.folder / "report" / "curves.png")
    _finish(record, metrics)
    return float(best_row.get("valid/loss", float("nan")))


def test(settings: TrainSettings, config: DictConfig) -> None:
    """Scores the checkpoint `ckpt_path` on the test split of the data."""
    record = RunRecord(Path(settings.run_dir))
    checkpoint = Path(str(settings.ckpt_path))
    with record.stage("model"):
        classifier = load_classifier(checkpoint, settings.features, moved_to=settings.model.weights)
    with record.stage("data"):
        manifest = _read_data(settings)
    _warn_of_other_data(classifier.recipe.data_fingerprint, manifest)
    if "test" not in manifest.splits:
        raise HeadstartError(f"{manifest.root} has no test split")
    if manifest.classes != classifier.recipe.classes:
        raise HeadstartError(
            f"{manifest.root} has the classes {', '.join(manifest.classes)}; the checkpoint knows "
            f"{', '.join(classifier.recipe.classes)}"
        )
    trainer = build_trainer(settings, [])
    datamodule = _data_module(settings, manifest, classifier)
    _begin(record, config, classifier, trainer, manifest)
    with record.stage("test"):
        metrics = _test(trainer, classifier, datamodule)
    _finish(record, metrics)


def _read_data(settings: TrainSettings) -> Manifest:
    manifest = scan(settings.data.root, settings.data.split, settings.seed)
    check_all_readable(manifest)
    _say(manifest.describe())
    return manifest


def _new_classifier(settings: TrainSettings, manifest: Manifest) -> Classifier:
    model = settings.model
    preprocessing = Preprocessing(settings.data.resize_size, settings.data.image_size)
    backbone, source = load_backbone(model.arch, model.weights, seed=settings.seed, preprocessing=preprocessing)
    recipe = Recipe(
        classes=manifest.classes,
        backbone=source,
        preprocessing=preprocessing,
        hidden_dim=model.hidden_dim,
        dropout=model.dropout,
        lr=model.lr,
        weight_decay=model.weight_decay,
        seed=settings.seed,
        data_fingerprint=manifest.fingerprint,
        precision=settings.features.precision,
    )
    features = settings.features
    return Classifier(Encoder(backbone, precision=features.precision, compile=features.compile), recipe)


def _check_resume(ckpt_path: str | None, classifier: Classifier, manifest: Manifest) -> None:
    """What Lightning would find out only after the run has begun to write."""
    if ckpt_path is None:
        return
    checkpoint = read_checkpoint(Path(ckpt_path))
    classifier.check_same_recipe(checkpoint["hyper_parameters"])
    _warn_of_other_data(checkpoint["hyper_parameters"]["data_fingerprint"], manifest)


def _warn_of_other_data(trained_on: str, manifest: Manifest) -> None:
    if trained_on != manifest.fingerprint:
        print(
            "warning: these are not the data that the checkpoint was trained with: they have changed, or are split "
            "in another way, and its training pictures may be among those of the test",
            file=sys.stderr,
        )


def _data_module(settings: TrainSettings, manifest: Manifest, classifier: Classifier) -> PictureDataModule:
    features = settings.features
    folder = Path(features.dir).expanduser() if features.dir is not None else default_folder()
    source = classifier.recipe.backbone
    return PictureDataModule(
        manifest,
        preprocessing=classifier.recipe.preprocessing,
        views=features.views,
        encoder=classifier.backbone,
        store=FeatureStore(folder, features.max_gb) if features.cache else None,
        backbone={"arch": source.arch, "weights_sha256": source.sha256, "cut": source.cut},
        batch_size=settings.data.batch_size,
        num_workers=settings.data.num_workers,
        seed=settings.seed,
    )


@rank_zero_only
def _begin(record: RunRecord, config: DictConfig, classifier: Classifier, trainer: Trainer, manifest: Manifest) -> None:
    """The first files of the run."""
    backbone = classifier.recipe.as_dict()["backbone"]
    record.begin(trainer.strategy.root_device, backbone=backbone, data_fingerprint=manifest.fingerprint)
    write_text(record.folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
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
