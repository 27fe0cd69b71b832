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


def test_fit_temperature__of_many_images_has_the_lowest_log_loss() -> None:
    log_probs, labels = sample(2000, 2.5)
    fitted = fit_temperature(log_probs, labels)
    best = float(nll_loss(scale(log_probs, fitted), labels))
    # The prior moves it a little.
    assert best == pytest.approx(
        min(float(nll_loss(scale(log_probs, t / 50), labels)) for t in range(20, 400)), abs=2e-3
    )


def test_fit_temperature__of_few_images_stays_near_1() -> None:
    labels = torch.arange(40) % 5
    log_probs = log_softmax(3 * torch.eye(5)[labels], 1)
    # All 40 are right; that the classifier is never wrong does not follow.
    assert 0.7 < fit_temperature(log_probs, labels) < 1
    assert fit_temperature(log_probs[:5], labels[:5]) > fit_temperature(log_probs, labels)


@pytest.mark.slow
def test_fit_temperature__harms_calibrated_probabilities_less_than_the_lowest_log_loss_does() -> None:
    new, of_new = sample(20000, 1.0)
    changes = []
    for seed in range(40):
        torch.manual_seed(seed)
        logits = 2 * torch.randn(60, 5)
        drawn = log_softmax(logits, 1), torch.distributions.Categorical(logits=logits).sample()
        before = float(nll_loss(new, of_new))
        lowest = min((t / 50 for t in range(20, 200)), key=lambda t: float(nll_loss(scale(drawn[0], t), drawn[1])))
        changes.append([float(nll_loss(scale(new, t), of_new)) - before for t in (fit_temperature(*drawn), lowest)])
    fitted, unregularized = torch.tensor(changes).mean(0).tolist()
    assert fitted < 0.4 * unregularized
    assert fitted < 0.004


def test_fit_temperature__of_probabilities_of_0() -> None:
    log_probs = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    assert 0 < fit_temperature(log_probs, torch.tensor([0, 0])) <= 20


def test_scale__keeps_the_order() -> None:
    log_probs, _ = sample(50, 1.0)
    assert torch.equal(scale(log_probs, 3.0).argsort(1), log_probs.argsort(1))
    torch.testing.assert_close(scale(log_probs, 3.0).exp().sum(1), torch.ones(50))
