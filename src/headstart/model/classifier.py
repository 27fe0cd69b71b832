"""The LightningModule: a backbone, frozen or unfrozen stage by stage, a new head, NLLLoss, Adam."""

from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor

from headstart.backbones.backbone import Backbone
from headstart.config.features import EncoderSettings
from headstart.data.sampler import IGNORED
from headstart.errors import HeadstartError
from headstart.log import log
from headstart.metrics import compute_metrics
from headstart.model.dropout import drop_as_one_process, seed_dropout
from headstart.model.image_classifier import ENCODER, STATES, ImageClassifier
from headstart.model.loss import class_weights, mixed, mixing, training_loss
from headstart.model.recipe import RATES, Recipe, warn_about_other_data
from headstart.model.schedule import lr_factor, stage_factors, unfrozen_stages
from headstart.model.temperature import fit_temperature
from headstart.processes import copy_from_first, interleaved, total, world_size
from headstart.seeds import derive_seed

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

    def configure_optimizers(self) -> OptimizerLRScheduler | None:
        """Adam with decoupled weight decay; all parameter groups exist from the start, of stages unfrozen later too."""
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
        loss = self._loss(features, labels, targets)
        self._check_finite(1, features)
        return loss

    def _loss(self, features: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """What a step's gradients are of; the head's output and the mean loss are put by for the epoch's metrics."""
        log_probs = self.head(features)
        summed, divisor = training_loss(log_probs, targets, self.class_weights, self.recipe.label_smoothing)
        # The mean over the batches of all processes, whose gradients are averaged.
        sums, divisors, count = total(torch.stack([summed.detach(), divisor, (labels != IGNORED).sum()]))
        self._outputs["train"].append((log_probs.detach(), labels))
        self._losses.append((sums / divisors, count))
        return summed / divisors * world_size()

    def _check_finite(self, steps: int, features: Tensor) -> None:
        """Raises HeadstartError if the loss of one of the latest `steps`, of these `features`, is infinite or NaN."""
        means = torch.stack([mean for mean, _ in self._losses[-steps:]])
        if not (finite := means.isfinite()).all():
            self._check_features(features)
            is_half = str(self.trainer.precision).startswith("16")
            raise HeadstartError(
                f"the training loss became {means[~finite][0].item()} in epoch {self.current_epoch + 1}: "
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
        self._publish(compute_metrics(log_probs, labels, "valid"))

    def _publish(self, metrics: Mapping[str, float | Tensor]) -> None:
        """Gives callbacks an epoch's metrics, as `log_dict` would; that takes as long as several steps."""
        self.trainer.callback_metrics.update({name: torch.as_tensor(value) for name, value in metrics.items()})

    def _collect(self, split: str) -> tuple[Tensor, ...]:
        """What the epoch's steps have put by, (N, …) each, in the order of the samples; then drops it.

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
        """How many stages of the backbone, from the top, this recipe ever trains."""
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
