"""The choice of model.head=auto."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from clusters import clusters
from conftest import SMALL, Script
from tiny_classifier import tiny_classifier

from headstart.data.preprocessing import Array
from headstart.training import fit
from headstart.training.fit import PREFERRED, Candidate, best_of, cross_validated

COUNT = 300
RECIPE = replace(tiny_classifier().recipe, classes=("a", "b", "c", "d"))


def candidate(kind: str, losses: Array, errors: int = 10) -> Candidate:
    return Candidate(kind, losses, np.arange(len(losses)) >= errors)


def test_best_of__within_chance_is_the_first() -> None:
    losses = np.random.default_rng(0).exponential(0.2, COUNT)
    noise = np.random.default_rng(1).normal(0, 0.2, COUNT)
    noise -= noise.mean() + 0.001
    first, second = candidate("logistic", losses), candidate("mlp", losses + noise)
    assert best_of([first, second], np.arange(COUNT)).kind == "logistic"


def test_best_of__is_another_where_that_is_better_by_more_than_chance() -> None:
    losses = np.random.default_rng(0).exponential(0.2, COUNT)
    noise = np.random.default_rng(1).normal(-0.05, 0.1, COUNT)
    first, second = candidate("logistic", losses), candidate("mlp", losses + noise)
    assert best_of([first, second], np.arange(COUNT)).kind == "mlp"
    # Not if these are ten scenes, in each of which all images say the same.
    scenes = np.arange(COUNT) % 10
    shared = np.random.default_rng(2).normal(-0.02, 0.1, 10)[scenes]
    assert best_of([first, candidate("mlp", losses + shared)], scenes).kind == "logistic"


def test_best_of__more_mistakes_are_worse_whatever_the_log_loss() -> None:
    losses = np.full(COUNT, 0.2)
    first, second = candidate("logistic", losses, errors=60), candidate("mlp", losses - 1e-6, errors=20)
    assert best_of([first, second], np.arange(COUNT)).kind == "mlp"


@pytest.mark.slow
def test_cross_validated__every_head_predicts_what_it_was_not_fitted_to() -> None:
    for spread, accuracy in ((0.5, 0.85), (2.0, 0.4)):
        data = clusters(200, 20, spread=spread)
        inputs = torch.from_numpy(data.features), torch.from_numpy(data.labels), np.arange(200)
        found = cross_validated(RECIPE, *inputs, epochs=20, batch_size=16)
        assert [of.kind for of in found] == list(PREFERRED)
        probs = {of.kind: np.exp(-of.losses) for of in found}
        np.testing.assert_allclose(probs["mean"], (probs["mlp"] + probs["ridge"]) / 2)
        for of in found:
            assert of.accuracy > accuracy, of.kind
    # As often as by chance, where there is nothing to learn.
    labels = torch.from_numpy(np.random.default_rng(7).integers(0, 4, 200))
    for of in cross_validated(RECIPE, inputs[0], labels, inputs[2], epochs=20, batch_size=16):
        assert of.accuracy < 0.4, of.kind


@pytest.mark.slow
def test_cross_validated__copies_say_nothing_about_each_other() -> None:
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(60, 100)).astype(np.float32), generator.integers(0, 4, 60)
    units = np.arange(60).repeat(2)
    inputs = torch.from_numpy(features[units]), torch.from_numpy(labels[units])
    for of in cross_validated(RECIPE, *inputs, units, epochs=5, batch_size=16):
        assert of.accuracy < 0.5, of.kind


@pytest.mark.slow
def test_cross_validated__is_the_same_whatever_was_drawn_before() -> None:
    data = clusters(40, 5, spread=2.0)
    inputs = torch.from_numpy(data.features), torch.from_numpy(data.labels), np.arange(40)
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        state = torch.get_rng_state()
        losses.append([of.log_loss for of in cross_validated(RECIPE, *inputs, epochs=3, batch_size=16)])
        assert torch.equal(torch.get_rng_state(), state)
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_cross_validated__without_a_limit_of_epochs_ends_where_the_losses_do_not_fall() -> None:
    data = clusters(40, 5, spread=4.0)
    inputs = torch.from_numpy(data.features), torch.from_numpy(data.labels), np.arange(40)
    found = cross_validated(RECIPE, *inputs, epochs=sys.maxsize, batch_size=40)
    assert all(np.isfinite(of.log_loss) for of in found)


@pytest.mark.slow
def test_cross_validated__a_head_whose_losses_are_nan_is_not_chosen() -> None:
    data = clusters(40, 5, spread=0.5)
    inputs = torch.from_numpy(data.features), torch.from_numpy(data.labels), np.arange(40)
    found = cross_validated(replace(RECIPE, lr=1e30), *inputs, epochs=5, batch_size=16)
    assert {of.kind for of in found if np.isnan(of.log_loss)} & {"linear", "mlp"}
    best = best_of(found, np.arange(40))
    assert np.isfinite(best.log_loss)
    # Not even where its guesses happen to be right.
    worse = Candidate("logistic", best.losses + 5, best.correct)
    lucky = Candidate("linear", np.full(40, np.nan), best.correct)
    assert best_of([worse, lucky, replace(best, kind="knn")], np.arange(40)).kind == "knn"


def test_resumed__keeps_the_head_that_was_chosen(
    script: Script, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (f"data.root={flat}", *SMALL, "data.split.train=6", "data.split.valid=3", "model.head=auto")
    monkeypatch.setattr(fit, "choose_head", lambda *arguments: "mean")
    for run, epochs in (("whole", 2), ("part", 1)):
        arguments = (f"trainer.max_epochs={epochs}", f"hydra.run.dir={tmp_path / run}")
        assert script("train.py", *options, *arguments).status == 0
    monkeypatch.setattr(fit, "choose_head", lambda *arguments: pytest.fail("it was chosen already"))
    rest = (f"ckpt_path={tmp_path / 'part'}", "trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'rest'}")
    resumed = script("train.py", *rest)
    assert resumed.status == 0, resumed.err
    whole, both = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("whole", "rest"))
    assert whole | {"seconds": 0} == both | {"seconds": 0}
