"""Temperature scaling."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import log_softmax, nll_loss

from headstart.model.closed_form import fit_temperature, scale


def sample(count: int, sharpness: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities, and labels drawn from them before they are made `sharpness` times as sharp."""
    torch.manual_seed(0)
    logits = 2 * torch.randn(count, 5)
    labels = torch.distributions.Categorical(logits=logits).sample()
    return log_softmax(logits * sharpness, 1), labels


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
def test_fit_temperature__undoes_what_was_made_too_sharp(sharpness: float) -> None:
    assert fit_temperature(*sample(20000, sharpness)) == pytest.approx(sharpness, rel=0.05)


def test_fit_temperature__has_the_lowest_log_loss() -> None:
    log_probs, labels = sample(2000, 2.5)
    fitted = fit_temperature(log_probs, labels)
    best = float(nll_loss(scale(log_probs, fitted), labels))
    # The smoothing of labels moves it a little.
    assert best == pytest.approx(
        min(float(nll_loss(scale(log_probs, t / 50), labels)) for t in range(20, 400)), abs=1e-3
    )


def test_fit_temperature__of_a_faultless_classifier_is_not_0() -> None:
    labels = torch.arange(100) % 5
    log_probs = log_softmax(3 * torch.eye(5)[labels], 1)
    confidence = scale(log_probs, fit_temperature(log_probs, labels)).exp().amax()
    # As Platt has it: 100 of 100 right does not mean that the next one is right for sure.
    assert confidence == pytest.approx(1 - 0.8 / 102, abs=1e-4)


def test_fit_temperature__of_probabilities_of_0() -> None:
    log_probs = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert 0 < fit_temperature(log_probs, torch.tensor([0, 0])) <= 20


def test_scale__keeps_the_order() -> None:
    log_probs, _ = sample(50, 1.0)
    assert torch.equal(scale(log_probs, 3.0).argsort(1), log_probs.argsort(1))
    torch.testing.assert_close(scale(log_probs, 3.0).exp().sum(1), torch.ones(50))
