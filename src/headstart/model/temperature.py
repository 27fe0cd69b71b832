"""Temperature scaling: one number, fitted on the validation split, that makes probabilities match accuracies.

Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# The inverse temperature lies between these.
BOUNDS = (0.05, 20.0)
STEPS = 40  # of the bisection


def scale(log_probs: Tensor, temperature: Tensor | float) -> Tensor:
    """Log-probabilities (N, classes) at a temperature. Their order stays."""
    return F.log_softmax(log_probs / temperature, dim=1)


def fit_temperature(log_probs: Tensor, labels: Tensor) -> float:
    """The temperature at which log-probabilities (N, classes) have the lowest log-loss for `labels` (N)."""
    return 1 / fit_scale(log_probs.clamp(min=-1e4), labels, BOUNDS)


@torch.no_grad()
def fit_scale(scores: Tensor, labels: Tensor, bounds: tuple[float, float]) -> float:
    """The factor within `bounds` at which the softmax of scores (N, classes) has the lowest log-loss for `labels` (N).

    Labels are smoothed as Platt (1999) does: a share of 1 / (N + 2) is spread over all classes. Else the temperature of
    a classifier that is right about all N would be 0.
    """
    values, smoothing = scores.cpu().double(), 1 / (len(labels) + 2)
    own = values.gather(1, labels.cpu()[:, None])[:, 0]
    wanted = ((1 - smoothing) * own + smoothing * values.mean(1)).mean()
    low, high = bounds
    for _ in range(STEPS):
        factor = (low + high) / 2
        # The log-loss is convex in the factor, and this is its derivative.
        expected = (F.softmax(values * factor, dim=1) * values).sum(1).mean()
        low, high = (low, factor) if expected > wanted else (factor, high)
    return (low + high) / 2
