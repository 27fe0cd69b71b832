"""What a configuration stands for: a classifier, the store of its features, and the data module."""

from pathlib import Path

from headstart.data.manifest import Manifest
from headstart.data.module import PictureDataModule
from headstart.data.transforms import Preprocessing
from headstart.features.encoder import Encoder
from headstart.features.store import FeatureStore
from headstart.files import cache_folder
from headstart.model.classifier import Classifier, Recipe
from headstart.model.weights import load_backbone
from headstart.settings import DataSettings, FeatureSettings, TrainSettings


def new_classifier(settings: TrainSettings, manifest: Manifest) -> Classifier:
    """A classifier with a new head for the classes of `manifest`.

    Raises:
        HeadstartError: the backbone cannot be had.
    """
    model = settings.model
    preprocessing = preprocessing_of(settings.data)
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
        balance=settings.data.balance,
        class_counts=manifest.class_counts(),
        label_smoothing=model.label_smoothing,
        schedule=model.schedule,
        warmup=model.warmup,
        finetune=settings.finetune,
    )
    features = settings.features
    return Classifier(Encoder(backbone, precision=features.precision, compile=features.compile), recipe)


def preprocessing_of(data: DataSettings) -> Preprocessing:
    """The evaluation transform."""
    return Preprocessing(data.resize_size, data.image_size)


def feature_store(features: FeatureSettings) -> FeatureStore | None:
    """Where features are kept; None where they are not."""
    if not features.cache:
        return None
    folder = Path(features.dir).expanduser() if features.dir is not None else cache_folder() / "features"
    return FeatureStore(folder, features.max_gb)


def data_module(settings: TrainSettings, manifest: Manifest, classifier: Classifier) -> PictureDataModule:
    """The batches that `classifier` trains and is tested on."""
    source = classifier.recipe.backbone
    return PictureDataModule(
        manifest,
        preprocessing=classifier.recipe.preprocessing,
        views=settings.features.views,
        encoder=classifier.backbone,
        store=feature_store(settings.features),
        backbone={
            "arch": source.arch,
            "weights_sha256": source.sha256,
            "cut": source.cut,
            "knows_photographs": source.knows_photographs,
        },
        batch_size=settings.data.batch_size,
        num_workers=settings.data.num_workers,
        seed=settings.seed,
        frozen_epochs=classifier.recipe.finetune.first_epoch,
        balanced=settings.data.balance == "sampler",
    )
