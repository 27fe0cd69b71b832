"""Averaging the predictions of several views of each image, if that helps."""

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.evaluation.predictions import Predictions, mean_of, predict_split, predict_splits
from headstart.log import log
from headstart.metrics import compute_metrics
from headstart.model.image_classifier import ImageClassifier
from headstart.training.data_module import ImageDataModule

COMPARED = ("valid/loss", "valid/acc")


@dataclass(frozen=True)
class Averaging:
    """How the mean over `views` views of each valid image compares with one view, both of calibrated probabilities."""

    views: int
    one_view: dict[str, float]
    mean: dict[str, float]

    @property
    def helps(self) -> bool:
        """Whether the mean has the lower loss."""
        return self.mean["valid/loss"] < self.one_view["valid/loss"]

    @property
    def used(self) -> int:
        """The number of views that is best."""
        return self.views if self.helps else 1

    def metrics(self) -> dict[str, float]:
        """As metrics.json has it."""
        compared = (("one_view", self.one_view), ("mean_of_views", self.mean))
        values = {f"{kind}/{name}": of[name] for kind, of in compared for name in COMPARED}
        return {"views": self.views, "views_used": self.used} | values

    def describe(self) -> str:
        """In one sentence."""
        loss, accuracy = (f"{self.one_view[name]:.4f} to {self.mean[name]:.4f}" for name in COMPARED)
        change = "lowers" if self.helps else "does not lower"
        return (
            f"The mean over {self.views} views of each image {change} the loss on the valid split ({loss}; accuracy "
            f"{accuracy}), so it is {'used' if self.helps else 'not used'}."
        )


def predict_views(
    classifier: ImageClassifier, data: ImageDataModule, splits: Sequence[str], views: int
) -> tuple[dict[str, Predictions], Averaging | None]:
    """The predictions of those of `splits` that `data` has: the mean over `views` views of each image, if that helps.

    Whether it does is decided on the valid split, which is one of `splits`; with one view there is nothing to decide.
    """
    plain = predict_splits(classifier, data, splits)
    if views == 1:
        return plain, None

    def mean(split: str) -> Predictions:
        others = (predict_split(classifier, data.whole(split, view)) for view in range(1, views))
        return mean_of([plain[split], *others])

    valid = mean("valid")
    averaging = Averaging(views, _calibrated_metrics(plain["valid"]), _calibrated_metrics(valid))
    log.info("%s", averaging.describe())
    if not averaging.helps:
        return plain, averaging
    return {split: valid if split == "valid" else mean(split) for split in plain}, averaging


def _calibrated_metrics(predictions: Predictions) -> dict[str, float]:
    return compute_metrics(predictions.calibrated, predictions.labels, "valid")
