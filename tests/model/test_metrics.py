import pytest
import torch
from torchmetrics.classification import MulticlassF1Score

from headstart.model.metrics import MacroF1


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_macro_f1__equals_torchmetrics(classes: int) -> None:
    ours, theirs = MacroF1(classes), MulticlassF1Score(classes, average="macro")
    for count in (7, 32, 1):
        log_probs, labels = torch.randn(count, classes).log_softmax(1), torch.randint(classes, (count,))
        ours.update(log_probs, labels)
        theirs.update(log_probs, labels)
    assert ours.compute() == pytest.approx(theirs.compute())


def test_macro_f1__a_class_that_nobody_mentions_does_not_count() -> None:
    ours, theirs = MacroF1(3), MulticlassF1Score(3, average="macro")
    log_probs, labels = torch.eye(3)[[0, 1, 1]], torch.tensor([0, 1, 0])
    ours.update(log_probs, labels)
    theirs.update(log_probs, labels)
    assert ours.compute() == pytest.approx(theirs.compute())
