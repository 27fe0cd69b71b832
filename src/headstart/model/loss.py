"""The training loss: NLLLoss, weighted, smoothed, and of mixed images, as the recipe says."""

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from headstart.data.sampler import IGNORED
from headstart.model.recipe import Recipe


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
    """Proportions (N, classes) of labels (N): zeros for IGNORED."""
    return (labels[:, None] == torch.arange(log_probs.shape[1], device=labels.device)).to(log_probs.dtype)


def mixing(recipe: Recipe) -> v2.Transform | None:
    """Mixes the images of a batch and their labels; at random by one of the two ways if both are set."""
    classes = len(recipe.classes)
    alphas = ((v2.MixUp, recipe.finetune.mixup), (v2.CutMix, recipe.finetune.cutmix))
    ways = [way(alpha=alpha, num_classes=classes) for way, alpha in alphas if alpha]
    return v2.RandomChoice(ways) if ways else None


def mixed(mix: v2.Transform, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mixed images (N, …), float32, and the proportions (N, classes) of their classes: zeros of what has IGNORED.

    That is at the end, and mixed with nothing.
    """
    images, count = images.float(), int((labels != IGNORED).sum())
    if count == 0:
        # `mix` knows the classes, but does not mix nothing.
        proportions = mix(images[:1], labels[:1].clamp(0))[1].zero_()
        return images, proportions.expand(len(labels), -1)
    found, proportions = mix(images[:count], labels[:count])
    rest = proportions.new_zeros(len(labels) - count, proportions.shape[1])
    return torch.cat([found, images[count:]]), torch.cat([proportions, rest])


def class_weights(recipe: Recipe) -> Tensor | None:
    """Inversely proportional to the classes' sizes, with mean 1 over the images; None: all images count the same."""
    if recipe.balance != "loss":
        return None
    counts = torch.tensor(recipe.class_counts, dtype=torch.float32)
    return counts.sum() / (len(counts) * counts)
