"""The LightningModule: a backbone, frozen or freed stage by stage, a new head, NLLLoss, Adam."""

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import MetricCollection
from torchvision.transforms import v2

from headstart.data.splits import SPLITS
from headstart.data.transforms import Preprocessing
from headstart.errors import HeadstartError
from headstart.features.encoder import Encoder
from headstart.model.backbone import Backbone
from headstart.model.head import build_head
from headstart.model.metrics import build_metrics
from headstart.model.schedule import freed_stages, lr_factor, stage_factors
from headstart.model.weights import BackboneSource
from headstart.seeds import derive_seed
from headstart.settings import FinetuneSettings

BACKBONE = "backbone."
NETWORK = "backbone.backbone.network."
# Where a checkpoint holds weights: those to use, and, where these are averages, those that are being trained.
STATES = {"state_dict", "current_model_state"}
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
    label_smoothing: float
    schedule: str
    warmup: float
    finetune: FinetuneSettings

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
                "finetune": FinetuneSettings(**values["finetune"]),
                "backbone": BackboneSource(**values["backbone"]),
                "preprocessing": Preprocessing.from_dict(values["preprocessing"]),
            }
        )


class Classifier(LightningModule):
    """Pictures (uint8, N×3×H×W) or their features (float, N×embedding_dim) → log-probabilities (N, classes).

    Its checkpoints leave out what is frozen of the backbone, which `Recipe.backbone` names.
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
        self._mix = _mixing(recipe)
        self.train_metrics, self.valid_metrics, self.test_metrics = (
            build_metrics(len(recipe.classes), f"{split}/") for split in SPLITS
        )

    def forward(self, x: Tensor) -> Tensor:
        features = x if x.ndim == 2 else self.backbone(x)
        return self.head(features)

    @property
    def _network(self) -> Backbone:
        return cast(Backbone, self.backbone.backbone)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam, its weight decay decoupled; all parameter groups from the start, of stages freed later too."""
        recipe, network = self.recipe, self._network
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters()), "lr": recipe.lr}]
        if recipe.finetune.first_epoch is not None:
            for stage, factor in enumerate(stage_factors(recipe.finetune, len(network.stages))):
                groups.append({"params": network.parameters_of(stage), "lr": recipe.lr * factor})
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay)
        if recipe.schedule == "constant" and recipe.warmup == 0:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise HeadstartError(f"model.schedule={recipe.schedule} needs an end: set trainer.max_epochs")
        of_step = partial(lr_factor, kind=recipe.schedule, warmup=recipe.warmup, total=int(total))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, of_step)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        # Dropout as a function of (seed, epoch): a resumed run draws what the whole one would have drawn.
        torch.manual_seed(derive_seed("epoch", self.recipe.seed, self.current_epoch, self.global_rank))
        finetune, network = self.recipe.finetune, self._network
        if finetune.first_epoch is not None:
            freed = freed_stages(finetune, self.current_epoch, len(network.stages))
            network.free(freed, batch_norm=finetune.batch_norm)
            network.train()

    def training_step(self, batch: Batch) -> Tensor:
        x, labels = batch
        targets = labels
        if self._mix is not None and self._network.freed:
            x, targets = self._mix(x.float(), labels)
        log_probs = self(x)
        self._measure("train", log_probs, labels, loss := self._training_loss(log_probs, targets))
        if not loss.isfinite():
            raise HeadstartError(
                f"the training loss became {loss.item()} in epoch {self.current_epoch + 1}: try a smaller model.lr"
            )
        return loss

    def _training_loss(self, log_probs: Tensor, targets: Tensor) -> Tensor:
        """Of labels (N) or, where pictures were mixed, of shares (N, classes)."""
        smoothing = self.recipe.label_smoothing
        if smoothing or targets.ndim == 2:
            # For log-probabilities the same as NLLLoss, and able to do more.
            return F.cross_entropy(log_probs, targets, self.class_weights, label_smoothing=smoothing)
        return F.nll_loss(log_probs, targets, self.class_weights)

    def validation_step(self, batch: Batch) -> None:
        self._evaluate("valid", *batch)

    def test_step(self, batch: Batch) -> None:
        self._evaluate("test", *batch)

    def _evaluate(self, split: str, x: Tensor, labels: Tensor) -> None:
        # Never weighted or smoothed: what is measured is measured in the same way in every run.
        log_probs = self(x)
        self._measure(split, log_probs, labels, F.nll_loss(log_probs, labels))

    def _measure(self, split: str, log_probs: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Means over examples, logged once an epoch; headstart.training.history hands them to the loggers."""
        metrics: MetricCollection = getattr(self, f"{split}_metrics")
        metrics.update(log_probs.detach(), labels)
        self.log(
            f"{split}/loss", loss, batch_size=len(labels), on_step=False, on_epoch=True, sync_dist=True, logger=False
        )
        self.log_dict(metrics, on_step=False, on_epoch=True, logger=False)

    def _trained_stages(self) -> int:
        """How many stages of the backbone, from the top, this recipe ever trains."""
        finetune = self.recipe.finetune
        return len(stage_factors(finetune, len(self._network.stages))) if finetune.first_epoch is not None else 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        # Also what is trained later only: the best epoch's checkpoint must bring back what it was then.
        trained = {f"{NETWORK}{name}" for name in self._network.state_of(self._trained_stages())}
        for part in STATES & checkpoint.keys():
            state = checkpoint[part]
            checkpoint[part] = {key: v for key, v in state.items() if not key.startswith(BACKBONE) or key in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.check_same_recipe(checkpoint["hyper_parameters"])
        frozen = {key: v for key, v in self.state_dict().items() if key.startswith(BACKBONE)}
        for part in STATES & checkpoint.keys():
            checkpoint[part] = frozen | checkpoint[part]

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


def _mixing(recipe: Recipe) -> v2.Transform | None:
    """Mixes the pictures of a batch and their labels, by either way at random where there are two."""
    classes = len(recipe.classes)
    alphas = ((v2.MixUp, recipe.finetune.mixup), (v2.CutMix, recipe.finetune.cutmix))
    ways = [way(alpha=alpha, num_classes=classes) for way, alpha in alphas if alpha]
    return v2.RandomChoice(ways) if ways else None


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
