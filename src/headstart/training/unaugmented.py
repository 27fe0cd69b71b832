"""Features of whole splits, for a backbone that need not have been trained on."""

from headstart.backbones.backbone import Backbone
from headstart.config.train import TrainSettings
from headstart.data.manifest import Manifest
from headstart.features.store import Array
from headstart.model.classifier import Classifier
from headstart.model.recipe import recipe_of
from headstart.training.data_module import ImageDataModule
from headstart.training.errors import lightning_errors
from headstart.training.trainer import build_trainer


def encode_unaugmented(settings: TrainSettings, manifest: Manifest, backbone: Backbone) -> dict[str, Array]:
    """The features (N, embedding_dim) of each split, stored or computed now on the device that training would use.

    Afterwards, `backbone` is on that device.
    """
    classifier = Classifier(backbone, recipe_of(settings, backbone, manifest), settings.features)
    loaders = ImageDataModule(settings, manifest)
    with lightning_errors(settings):
        loaders.serve(classifier.to(build_trainer(settings).strategy.root_device))
    return loaders.unaugmented_features()
