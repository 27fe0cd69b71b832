"""The choice of a closed-form head's setting."""

import torch
from torch.nn.functional import one_hot

from headstart.model.closed_form import choose

LABELS = torch.arange(40) % 4
RIGHT = one_hot(LABELS, 4).double()


def test_choose__the_highest_accuracy() -> None:
    wrong = RIGHT.clone()
    wrong[:3] = wrong[:3].roll(1, 1)
    assert choose([(1, wrong), (2, RIGHT), (3, wrong)], LABELS).setting == 2


def test_choose__of_equal_accuracies_the_lowest_log_loss() -> None:
    torch.manual_seed(0)
    hesitant = RIGHT + 0.2 * torch.rand(40, 4, dtype=torch.double)
    for order in ((1, 2), (2, 1)):
        found = {1: hesitant, 2: RIGHT}
        assert choose([(setting, found[setting]) for setting in order], LABELS).setting == 2


def test_choose__the_scale_does_not_depend_on_that_of_the_scores() -> None:
    noisy = RIGHT.clone()
    noisy[:8] = noisy[:8].roll(1, 1)
    scales = [choose([(1, noisy * factor)], LABELS).scale * factor for factor in (0.05, 1, 50)]
    torch.testing.assert_close(torch.tensor(scales), torch.tensor([scales[1]] * 3), rtol=1e-4, atol=0)
