"""Defines the LightningModule: its loss, schedule and steps, also for closed-form heads."""

import math
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from headstart.backbones.backbone import Backbone
from headstart.config.model import EncoderSettings, FinetuneSettings
from headstart.data.dataset import IGNORED
from headstart.data.splits import derive_seed
from headstart.errors import HeadstartError
from headstart.log import log
from headstart.metrics import compute_metrics
from headstart.model.closed_form import ClosedForm, fit_temperature
from headstart.model.image_classifier import (
    ENCODER,
    STATES,
    ImageClassifier,
    MlpAndRidge,
    drop_as_one_process,
    seed_dropout,
)
from headstart.model.recipe import RATES, Recipe, warn_about_other_data
from headstart.processes import copy_from_first, interleaved, total, world_size


def training_loss(
    log_probs: Tensor, targets: Tensor, weights: Tensor | None, smoothing: float
) -> tuple[Tensor, Tensor]:
    """Returns the sum of the losses of log-probabilities (N, classes), and what it is divided by for their mean.

    An image counts as much as the weight of its own class, in the sum and in the divisor. PyTorch's `cross_entropy`
    weights the smoothing by the weights of all classes instead, so that every image would be drawn to the rare ones.

    Args:
        targets: labels (N) or, if images were mixed, proportions (N, classes). IGNORED, or zeros, do not count.
        weights: (classes), those of the classes; None: all images count the same.
        smoothing: the share of each target that is spread evenly over all classes.
    """
    if targets.ndim == 1 and not smoothing:
        known = targets != IGNORED
        summed = F.nll_loss(log_probs, targets, weights, reduction="sum")
        return summed, (known if weights is None else weights[targets.clamp(0)] * known).sum().to(summed.dtype)
    counted = targets if targets.ndim == 2 else _one_hot(targets, log_probs)
    counted = counted if weights is None else counted * weights
    smoothed = (1 - smoothing) * counted + smoothing * counted.mean(1, keepdim=True)
    return F.cross_entropy(log_probs, smoothed, reduction="sum"), counted.sum()


def _one_hot(labels: Tensor, log_probs: Tensor) -> Tensor:
    """Returns proportions (N, classes) of labels (N): zeros for IGNORED."""
    return (labels[:, None] == torch.arange(log_probs.shape[1], device=labels.device)).to(log_probs.dtype)


def mixing(recipe: Recipe) -> v2.Transform | None:
    """Returns what mixes the images of a batch and their labels, by MixUp, CutMix, or either of them at random."""
    classes = len(recipe.classes)
    alphas = ((v2.MixUp, recipe.finetune.mixup), (v2.CutMix, recipe.finetune.cutmix))
    ways = [way(alpha=alpha, num_classes=classes) for way, alpha in alphas if alpha]
    return v2.RandomChoice(ways) if ways else None


def mixed(mix: v2.Transform, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mixed images (N, …), float32, and the proportions (N, classes) of their classes.

    Images with the label IGNORED, which come last, are not mixed, and have proportions of zero.
    """
    images, count = images.float(), int((labels != IGNORED).sum())
    if count == 0:
        # `mix` knows the classes, but does not mix nothing.
        proportions = mix(images[:1], labels[:1].clamp(0))[1].zero_()
        return images, proportions.expand(len(labels), -1)
    blended, proportions = mix(images[:count], labels[:count])
    rest = proportions.new_zeros(len(labels) - count, proportions.shape[1])
    return torch.cat([blended, images[count:]]), torch.cat([proportions, rest])


def class_weights(recipe: Recipe) -> Tensor | None:
    """Returns weights inversely proportional to the classes' sizes, of mean 1 over the images; None: all are equal."""
    if recipe.balance != "loss":
        return None
    counts = torch.tensor(recipe.class_counts, dtype=torch.float32)
    return counts.sum() / (len(counts) * counts)


# Of the peak learning rate: where one cycle begins, and where it ends.
FIRST, LAST = 1 / 25, 1 / 250_000


def lr_factor(step: int, *, kind: str, warmup: float, total: int) -> float:
    """Returns the learning rate at a step relative to its peak, reached after the fraction `warmup` of `total` steps.

    constant: linear warmup, then constant. cosine: linear warmup, then half a cosine to zero. onecycle: half a cosine
    up and half a cosine down, as PyTorch's OneCycleLR.
    """
    rise = warmup * total
    if step < rise:
        return _between(FIRST, 1.0, step / rise) if kind == "onecycle" else (step + 1) / (rise + 1)
    if kind == "constant":
        return 1.0
    return _between(1.0, LAST if kind == "onecycle" else 0.0, min(1.0, (step - rise) / max(1.0, total - rise)))


def _between(start: float, stop: float, share: float) -> float:
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2


def unfrozen_stages(finetune: FinetuneSettings, epoch: int, stages: int) -> int:
    """Returns how many of a backbone's `stages`, from the top, are trained in `epoch`."""
    if finetune.rest is not None and epoch >= finetune.rest:
        return stages
    return min(stages, sum(begin <= epoch for begin in finetune.epochs))


def stage_factors(finetune: FinetuneSettings, stages: int) -> list[float]:
    """Returns the learning rate, relative to the head's, of each stage that is ever trained, from the top."""
    factors = list(finetune.lr_factors[:stages])
    return factors if finetune.rest is None else factors + [1.0] * (stages - len(factors))


NETWORK = "encoder.backbone.network."
Batch = tuple[Tensor, Tensor]


class Classifier(ImageClassifier, LightningModule):
    """An image classifier that Lightning's Trainer trains."""

    class_weights: Tensor | None

    def __init__(self, backbone: Backbone, recipe: Recipe, features: EncoderSettings) -> None:
        super().__init__(backbone, recipe, features)
        self.save_hyperparameters(recipe.as_dict(), logger=False)
        # Not in checkpoints, because it follows from the recipe.
        self.register_buffer("class_weights", class_weights(recipe), persistent=False)
        self._mix = mixing(recipe)
        self._outputs: dict[str, list[tuple[Tensor, ...]]] = {"train": [], "valid": []}
        self.valid_losses: Tensor | None = None  # of each image (N), in the latest validation
        # Whether it continues with another learning rate or weight decay than its checkpoint's.
        self.has_new_rates = False
        self._losses: list[tuple[Tensor, Tensor]] = []  # of the epoch's batches, with their numbers of images

    def configure_model(self) -> None:
        """Makes trainable whatever will be: DDP synchronizes only what is trainable when it is set up, just after."""
        if world_size() > 1:
            drop_as_one_process(self.backbone)
            self.backbone.unfreeze(self._trained_stages(), batch_norm=self.recipe.finetune.batch_norm)

    def on_fit_start(self) -> None:
        self.backbone.unfreeze(0, batch_norm=False)

    def fit_ridge(self, features: Tensor, labels: Tensor, units: Tensor) -> None:
        """Fits the ridge regression of `model.head=mean` to unaugmented features (N, d), as ClosedFormClassifier would.

        It is to be called before the first epoch. A resumed run has it from its checkpoint.
        """
        self._check_features(features)
        layer = self.head[0]
        assert isinstance(layer, MlpAndRidge)
        layer.ridge.fit(features, labels, units)
        log.info("%s: %s, chosen by predicting each training image from the others", self.recipe.head, layer.setting)

    def configure_optimizers(self) -> OptimizerLRScheduler | None:
        """Returns AdamW; all parameter groups exist from the start, of stages unfrozen later too."""
        recipe, backbone = self.recipe, self.backbone
        groups: list[dict[str, Any]] = [{"params": list(self.head.parameters()), "lr": recipe.lr}]
        if recipe.finetune.first_epoch is not None:
            for stage, factor in enumerate(stage_factors(recipe.finetune, len(backbone.stages))):
                groups.append({"params": backbone.parameters_of(stage), "lr": recipe.lr * factor})
        # On a CPU, PyTorch's fused code takes half the time; in mixed precision Lightning does not clip its gradients.
        fused = True if self.device.type == "cpu" and self.trainer.precision == "32-true" else None
        optimizer = torch.optim.AdamW(groups, lr=recipe.lr, weight_decay=recipe.weight_decay, fused=fused)
        if recipe.schedule == "constant" and recipe.warmup == 0:
            return optimizer
        total = self.trainer.estimated_stepping_batches
        if total == float("inf"):
            raise HeadstartError(f"model.schedule={recipe.schedule} needs a limit: set trainer.max_epochs")
        factor_at = partial(lr_factor, kind=recipe.schedule, warmup=recipe.warmup, total=int(total))
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor_at)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        self.familiarity.reset()
        # Dropout as a function of (seed, epoch): a resumed run draws what an uninterrupted one would have drawn.
        seed_dropout(derive_seed("epoch", self.recipe.seed, self.current_epoch, 0), self.device)
        finetune, backbone = self.recipe.finetune, self.backbone
        if finetune.first_epoch is not None:
            unfrozen = unfrozen_stages(finetune, self.current_epoch, len(backbone.stages))
            backbone.unfreeze(unfrozen, batch_norm=finetune.batch_norm)
            backbone.train()

    def training_step(self, batch: Batch) -> Tensor | None:
        x, labels = batch
        targets = labels
        if self._mix is not None and self.backbone.unfrozen:
            x, targets = mixed(self._mix, x, labels)
        features = self.embed(x)
        self.familiarity.observe(features, labels)
        log_probs = self.head(features)
        summed, divisor = training_loss(log_probs, targets, self.class_weights, self.recipe.label_smoothing)
        # The mean over the batches of all processes, whose gradients are averaged.
        sums, divisors, count = total(torch.stack([summed.detach(), divisor, (labels != IGNORED).sum()]))
        self._outputs["train"].append((log_probs.detach(), labels))
        self._losses.append((sums / divisors, count))
        self._check_loss(sums / divisors, features)
        return summed / divisors * world_size()

    def _check_loss(self, loss: Tensor, features: Tensor) -> None:
        """Raises HeadstartError if the mean loss of a step with these `features` is infinite or NaN."""
        if not loss.isfinite():
            self._check_features(features)
            is_half = str(self.trainer.precision).startswith("16")
            raise HeadstartError(
                f"the training loss became {loss.item()} in epoch {self.current_epoch + 1}: "
                f"try a smaller model.lr{', or trainer.precision=32' if is_half else ''}"
            )

    def _check_features(self, features: Tensor) -> None:
        """Raises HeadstartError if a frozen backbone gave features (N, …) that are infinite or NaN.

        No setting of the head is to blame then. Of a backbone that is being trained, the learning rate may be.
        """
        count = int((~features.isfinite().flatten(1).all(1)).sum())
        if count and not self.backbone.unfrozen:
            source = self.recipe.backbone
            rounded = " or set features.precision=32, because bf16 may have overflowed" if self._is_bf16 else ""
            raise HeadstartError(
                f"the features of {count} of {len(features)} images are infinite or NaN, whatever the head: check the "
                f"weights of the backbone ({source.arch}, weights {source.weights or 'random'}){rounded}"
            )

    @property
    def _is_bf16(self) -> bool:
        return self.encoder.precision == "bf16"

    def log_train_metrics(self) -> None:
        """Publishes the epoch's training metrics. Callbacks see a module's own `on_train_epoch_end` too late."""
        log_probs, labels = self._collect("train")
        metrics: dict[str, Any] = compute_metrics(log_probs, labels, "train")
        if self._losses:
            # The training loss is that of the steps: weighted, smoothed, of mixed images.
            images = sum(count for _, count in self._losses)
            metrics["train/loss"] = sum(mean * count for mean, count in self._losses) / images
            self._losses.clear()
        self._publish(metrics)

    def on_validation_epoch_start(self) -> None:
        if self.recipe.finetune.batch_norm:
            # Each process has moved them with its own batches.
            copy_from_first(self.backbone.buffers())
        sums, counts = map(total, self.familiarity.observed)
        self.familiarity.fit_means(sums, counts)

    def validation_step(self, batch: Batch) -> None:
        x, labels = batch
        features = self.embed(x)
        self._outputs["valid"].append((self.head(features), labels, self.familiarity(features)))

    def on_validation_epoch_end(self) -> None:
        self.fit_to_validation()

    def fit_to_validation(self) -> None:
        """Fits what depends on the validation split and publishes its metrics, when first called after a validation."""
        if not self._outputs["valid"]:
            return
        log_probs, labels, familiarity = self._collect("valid")
        # Familiarity has no other reason to be NaN.
        self._check_features(familiarity[:, None])
        self.temperature.fill_(fit_temperature(log_probs, labels))
        self.familiarity.fit_threshold(familiarity)
        self.valid_losses = F.nll_loss(log_probs.double(), labels, reduction="none").cpu()
        self._publish(compute_metrics(log_probs, labels, "valid"))

    def _publish(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Gives callbacks an epoch's metrics, as `log_dict` would; that takes as long as several steps."""
        self.trainer.callback_metrics.update({name: torch.as_tensor(value) for name, value in metrics.items()})

    def _collect(self, split: str) -> tuple[Tensor, ...]:
        """Returns, and forgets, what the epoch's steps have collected, (N, …) each, in the order of the samples.

        The second are the labels.
        """
        outputs = tuple(torch.cat(parts) for parts in zip(*self._outputs[split], strict=True))
        self._outputs[split].clear()
        if world_size() == 1:
            return outputs
        outputs = tuple(map(interleaved, outputs))
        known = outputs[1] != IGNORED
        return tuple(output[known] for output in outputs)

    def _trained_stages(self) -> int:
        """Returns how many stages of the backbone, from the top, this recipe ever trains."""
        finetune = self.recipe.finetune
        return len(stage_factors(finetune, len(self.backbone.stages))) if finetune.first_epoch is not None else 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["versions"] = {"headstart": version("headstart"), "torch": str(torch.__version__)}
        # Also stages that are unfrozen later: the best epoch's checkpoint must restore what they were then.
        trained = {f"{NETWORK}{name}" for name in self.backbone.state_of(self._trained_stages())}
        for part in STATES & checkpoint.keys():
            state = checkpoint[part]
            checkpoint[part] = {key: v for key, v in state.items() if not key.startswith(ENCODER) or key in trained}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["hyper_parameters"]
        self.recipe.check_resumable(saved)
        self.has_new_rates = any(getattr(self.recipe, key) != saved[key] for key in RATES)
        if checkpoint.get("optimizer_states"):
            self._set_rates(checkpoint, saved)
        warn_about_other_data(saved["data_fingerprint"], self.recipe.data_fingerprint)
        self._complete(checkpoint)

    def _set_rates(self, checkpoint: dict[str, Any], saved: dict[str, Any]) -> None:
        """Puts this recipe's learning rate and weight decay in place of those `saved`, also of unfrozen stages."""
        for key in RATES:
            if (value := getattr(self.recipe, key)) != saved[key]:
                log.info("model.%s: %g from here on (%g so far)", key, value, saved[key])
        ratio = self.recipe.lr / saved["lr"]
        for group in (group for state in checkpoint["optimizer_states"] for group in state.get("param_groups", ())):
            group["weight_decay"] = self.recipe.weight_decay
            group |= {key: group[key] * ratio for key in ("lr", "initial_lr") if key in group}
        for state in checkpoint["lr_schedulers"]:
            state |= {key: [lr * ratio for lr in state[key]] for key in ("base_lrs", "_last_lr")}


class ClosedFormClassifier(Classifier):
    """A classifier whose head is computed in closed form: the only epoch's last step fits it to the features of all.

    The training metrics are of the scores that each image gets from the others: by itself, its nearest neighbour is
    always right. `order` (N) are the indices of the samples in the order of the steps; `units` (N) are equal for
    samples that depend on each other, which say nothing about each other.
    """

    def __init__(self, backbone: Backbone, recipe: Recipe, features: EncoderSettings) -> None:
        super().__init__(backbone, recipe, features)
        self.automatic_optimization = False
        self.order: Tensor | None = None
        self.units: Tensor | None = None

    def configure_optimizers(self) -> None:
        """Returns nothing: there is nothing to optimize."""

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
        order, units = self.order, self.units
        if order is None or len(order) != len(labels):
            # The Trainer's limits and `overfit_batches` leave fewer samples, and other ones.
            order, units = torch.arange(len(labels)), None
        # In the order of the samples, in which the report fits the same head.
        by_sample = order.argsort().to(labels.device)
        scores = layer.fit(features[by_sample], labels[by_sample], units)[order.to(labels.device)]
        log_probs = F.log_softmax(scores, dim=1)
        self._outputs["train"].append((log_probs, labels))
        log.info("%s: %s, chosen by predicting each training image from the others", self.recipe.head, layer.setting)


def build_classifier(backbone: Backbone, recipe: Recipe, features: EncoderSettings) -> Classifier:
    """Returns what Lightning's Trainer trains, or computes in closed form."""
    kind = ClosedFormClassifier if recipe.is_closed_form else Classifier
    return kind(backbone, recipe, features)
