"""The LightningModule of a head that is trained on blocks of many batches of stored features."""

from collections.abc import Iterator

from torch.optim import Optimizer

from headstart.backbones.backbone import Backbone
from headstart.config.features import EncoderSettings
from headstart.model.classifier import Batch, Classifier
from headstart.model.recipe import Recipe

# In a block, which is one step for the Trainer.
BATCHES = 64


class BlockClassifier(Classifier):
    """Takes as many steps as there are batches in a block, exactly those of a Classifier that is given the batches.

    What a Trainer does around each step takes longer than a step of a new head does.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe, features: EncoderSettings, *, batch_size: int) -> None:
        super().__init__(backbone, recipe, features)
        self.automatic_optimization = False
        self._batch_size = batch_size

    def train(self, mode: bool = True) -> "BlockClassifier":
        """For what is trained; the encoder stays in eval mode, and its many modules are not asked."""
        self.training = mode
        self.head.train(mode)
        return self

    def training_step(self, block: Batch) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, Optimizer)
        # Of Lightning's own optimizers, the Trainer counts the steps by itself.
        count = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        self.familiarity.observe(*block)
        batches = list(self._batches(block))
        for features, labels in batches:
            optimizer.zero_grad()
            self._loss(features, labels, labels).backward()
            optimizer.step()
            count.increment_ready()
            count.increment_completed()
        self._check_finite(len(batches), block[0])

    def validation_step(self, block: Batch) -> None:
        for batch in self._batches(block):
            super().validation_step(batch)

    def _batches(self, block: Batch) -> Iterator[Batch]:
        features, labels = block
        return zip(features.split(self._batch_size), labels.split(self._batch_size), strict=True)
