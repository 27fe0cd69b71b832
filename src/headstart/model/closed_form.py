"""The LightningModule of a head that is not trained step by step, but fitted at once to the features of an epoch."""

from torch import Tensor
from torch.nn import functional as F

from headstart.backbones.backbone import Backbone
from headstart.config.features import EncoderSettings
from headstart.log import log
from headstart.model.classifier import Batch, Classifier
from headstart.model.head import ClosedForm
from headstart.model.recipe import Recipe


class ClosedFormClassifier(Classifier):
    """The steps of its only epoch put features by, and the last one fits the head to all of them.

    The training metrics are of the scores that each image gets from the others: by itself, its nearest neighbour is
    always right.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe, features: EncoderSettings) -> None:
        super().__init__(backbone, recipe, features)
        self.automatic_optimization = False

    def configure_optimizers(self) -> None:
        """None."""

    def training_step(self, batch: Batch) -> None:
        x, labels = batch
        features = self.embed(x)
        self.familiarity.observe(features, labels)
        self._outputs["train"].append((features, labels))
        if self.trainer.is_last_batch:
            self._fit_head(*self._collect("train"))

    def _fit_head(self, features: Tensor, labels: Tensor) -> None:
        self._check_features(features)
        layer = self.head[0]
        assert isinstance(layer, ClosedForm)
        log_probs = F.log_softmax(layer.fit(features, labels), dim=1)
        self._outputs["train"].append((log_probs, labels))
        log.info("%s: %s, chosen by leaving each training image out", self.recipe.head, layer.setting)


def build_classifier(backbone: Backbone, recipe: Recipe, features: EncoderSettings) -> Classifier:
    """What Lightning's Trainer trains, or fits at once."""
    kind = ClosedFormClassifier if recipe.is_closed_form else Classifier
    return kind(backbone, recipe, features)
