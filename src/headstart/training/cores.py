"""On how many cores a new head is trained."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from headstart.model.classifier import Classifier

# Multiplications of a step's forward pass up to which threads wait for each other longer than they compute.
SHORT_STEP = 100e6


@contextmanager
def cores_for_head(classifier: Classifier, batch_size: int) -> Iterator[None]:
    """Within the block, the steps of a new head on a frozen backbone use one core, unless they are long.

    The backbone's forward passes use all of them: each encodes images of its own.
    """
    multiplications = batch_size * sum(parameter.numel() for parameter in classifier.head.parameters())
    recipe, threads = classifier.recipe, torch.get_num_threads()
    if recipe.finetune.first_epoch is None and not recipe.is_closed_form and multiplications <= SHORT_STEP:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
