"""The LightningModule: a frozen backbone, a new head, NLLLoss, Adam."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection

from headstart.data.splits import SPLITS
from headstart.data.transforms import Preprocessing
from headstart.errors import HeadstartError
from headstart.features.encoder import Encoder
from headstart.model.head import build_head
from headstart.model.metrics import build_metrics
from headstart.model.weights import BackboneSource
from headstart.seeds import derive_seed

FROZEN = "backbone."
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Recipe:
    """All that a classifier is made from, besides its weights. A checkpoint holds it as plain values.

    `precision` is the setting under which its features were computed: auto, 32 or bf16. `balance` is what is done about
    classes of different sizes (none, loss, sampler); `class_counts` are those sizes, in the train split.
    """

    classes: tuple[str, ...]
    backbone: BackboneSource
    preprocessing: Preprocessing
    hidden_dim: int
    dropout: float
    lr: float
    weight_decay: float
    seed: int
    data_fingerprint: str
    precision: str
    balance: str
    class_counts: tuple[int, ...]

    def as_dict(self) -> dict[str, Any]:
        """As numbers, strings, lists and dicts, so that a checkpoint loads with `weights_only=True`."""
        plain = asdict(self)
        lists = {"classes": list(self.classes), "class_counts": list(self.class_counts)}
        return plain | lists | {"preprocessing": self.preprocessing.as_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Recipe":
        return cls(
            **values
            | {
                "classes": tuple(values["classes"]),
                "class_counts": tuple(values["class_counts"]),
                "backbone": BackboneSource(**values["backbone"]),
                "preprocessing": Preprocessing.from_dict(values["preprocessing"]),
            }
        )


class Classifier(LightningModule):
    """Pictures (uint8, N×3×H×W) or their features (float, N×embedding_dim) → log-probabilities (N, classes).

    Its checkpoints leave out the frozen backbone, which `Recipe.backbone` names.
    """

    class_weights: Tensor | None

    def __init__(self, backbone: Encoder, recipe: Recipe) -> None:
        super().__init__()
        self.save_hyperparameters(recipe.as_dict(), logger=False)
        self.recipe = recipe
        self.backbone = backbone
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed("head", recipe.seed))
            self.head = build_head(backbone.embedding_dim, recipe.hidden_dim, len(recipe.classes), recipe.dropout)
        # Not in the checkpoints: it follows from the recipe.
        self.register_buffer("class_weights", _class_weights(recipe), persistent=False)
        self.train_metrics, self.valid_metrics, self.test_metrics = (
            build_metrics(len(recipe.classes), f"{split}/") for split in SPLITS
        )

    def forward(self, x: Tensor) -> Tensor:
        features = x if x.ndim == 2 else self.backbone(x)
        return self.head(features)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.head.parameters(), lr=self.recipe.lr, weight_decay=self.recipe.weight_decay)

    def on_train_epoch_start(self) -> None:
        # Dropout as a function of (seed, epoch): a resumed run draws what the whole one would have drawn.
        torch.manual_seed(derive_seed("epoch", self.recipe.seed, self.current_epoch, self.global_rank))

    def training_step(self, batch: Batch) -> Tensor:
        return self._step(batch, "train", self.train_metrics)

    def validation_step(self, batch: Batch) -> None:
        self._step(batch, "valid", self.valid_metrics)

    def test_step(self, batch: Batch) -> None:
        self._step(batch, "test", self.test_metrics)

    def _step(self, batch: Batch, split: str, metrics: MetricCollection) -> Tensor:
        x, labels = batch
        log_probs = self(x)
        # Only training is weighted: what is measured is measured in the same way in every run.
        loss = F.nll_loss(log_probs, labels, self.class_weights if split == "train" else None)
        metrics.update(log_probs.detach(), labels)
        # Means over examples, logged once an epoch; headstart.training.history hands them to the loggers.
        self.log(
            f"{split}/loss", loss, batch_size=len(labels), on_step=False, on_epoch=True, sync_dist=True, logger=False
        )
        self.log_dict(metrics, on_step=False, on_epoch=True, logger=False)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: v for key, v in state.items() if not key.startswith(FROZEN)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_same_recipe(checkpoint["hyper_parameters"])
        frozen = {key: v for key, v in self.state_dict().items() if key.startswith(FROZEN)}
        checkpoint["state_dict"] = frozen | checkpoint["state_dict"]

    def restore(self, checkpoint: dict[str, Any]) -> "Classifier":
        """Takes over the weights of `checkpoint`, what `headstart.model.checkpoint.read_checkpoint` returns."""
        self.on_load_checkpoint(checkpoint)
        self.load_state_dict(checkpoint["state_dict"])
        return self

    def check_same_recipe(self, saved: dict[str, Any]) -> None:
        """The data may have changed since, and the file of the weights may have moved; nothing else.

        Raises:
            HeadstartError: names what differs between the recipe `saved` in a checkpoint and this one.
        """
        found = _essence(saved)
        for key, value in _essence(self.recipe.as_dict()).items():
            if found[key] != value:
                raise HeadstartError(
                    f"the checkpoint cannot go on with this configuration: its {key} is {found[key]}, not {value}"
                )


def _class_weights(recipe: Recipe) -> Tensor | None:
    """Inverse to the classes' sizes, and 1 on the average over the pictures; None: all pictures count alike."""
    if recipe.balance != "loss":
        return None
    counts = torch.tensor(recipe.class_counts, dtype=torch.float32)
    return counts.sum() / (len(counts) * counts)


def _essence(recipe: dict[str, Any]) -> dict[str, Any]:
    backbone = {f"backbone {key}": recipe["backbone"][key] for key in ("arch", "sha256")}
    of_data = ("backbone", "data_fingerprint", "class_counts")
    return backbone | {key: v for key, v in recipe.items() if key not in of_data}
