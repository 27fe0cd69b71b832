"""Which trials cannot be told apart, and what seeds alone change."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binomtest  # type: ignore[import-untyped]

from headstart.evaluation.predictions import Predictions
from headstart.run_folder import SweepFolder
from headstart.sweeping.leaderboard import Tie, find_tie
from headstart.sweeping.trial_record import Trial, over_seeds

IMAGES = 100


def trial(name: str, acc: float = 0.9, **values: str) -> Trial:
    return Trial(name, values, None, {"valid/acc": acc}, 1.0, "", "")


def write(sweep: SweepFolder, name: str, wrong: range, images: int = IMAGES, unit: int = 1) -> None:
    """Valid predictions of a trial, wrong about the images `wrong`, of which each `unit` depend on each other."""
    predicted = torch.tensor([[0.1, 0.9] if i in wrong else [0.9, 0.1] for i in range(images)])
    Predictions(
        tuple(f"{i}.jpg" for i in range(images)),
        torch.zeros(images, dtype=torch.long),
        predicted.log(),
        units=np.arange(images) // unit,
    ).write(sweep.trial(name).valid_predictions, ("ant", "bee"))


@pytest.mark.parametrize(("worse", "ranks"), [(range(6), 3), (range(7), 1)])
def test_tie__ends_where_the_corrected_test_finds_a_difference(tmp_path: Path, worse: range, ranks: int) -> None:
    # The exact tests of 6 and of 7 against 0 images have p = 0.03125 and 0.015625. With d, which is certainly worse, it
    # is the second of three: Holm's correction doubles it.
    assert (2 * binomtest(0, len(worse)).pvalue >= 0.05) == (ranks > 1)
    sweep = SweepFolder(tmp_path)
    write(sweep, "a", range(0))
    write(sweep, "b", worse)
    write(sweep, "c", range(3))
    write(sweep, "d", range(40))
    tie = find_tie(sweep, [trial(name) for name in "abcd"])
    assert tie is not None
    assert (tie.ranks, tie.images) == (ranks, IMAGES)


def test_tie__images_of_a_group_count_as_one(tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path)
    write(sweep, "a", range(0))
    write(sweep, "b", range(12))
    pair = [trial("a"), trial("b")]
    assert find_tie(sweep, pair) == Tie(1, IMAGES)
    write(sweep, "a", range(0), unit=4)
    assert find_tie(sweep, pair) == Tie(2, IMAGES)


def test_tie__only_among_trials_scored_on_the_same_images(tmp_path: Path) -> None:
    sweep = SweepFolder(tmp_path)
    write(sweep, "a", range(2))
    write(sweep, "b", range(2), images=IMAGES - 1)
    tie = find_tie(sweep, [trial("a"), trial("b"), trial("unwritten")])
    assert tie is not None
    assert tie.ranks == 1
    assert find_tie(sweep, [trial("unwritten"), trial("a")]) is None


def test_over_seeds__mean_and_deviation_of_each_combination_of_the_others() -> None:
    accuracies = [0.9, 0.92, 0.97]
    trials = [trial(f"{i}", acc, lr="0.1", seed=str(i)) for i, acc in enumerate(accuracies)]
    trials += [trial("other", 0.5, lr="0.2", seed="0"), trial("none", 0.1, lr="0.1")]
    (found,) = over_seeds(trials, "valid/acc")
    assert (found.values, found.trials) == ({"lr": "0.1"}, 3)
    assert found.mean == pytest.approx(np.mean(accuracies))
    assert found.deviation == pytest.approx(np.std(accuracies, ddof=1))
    assert over_seeds(trials[:1], "valid/acc") == []
