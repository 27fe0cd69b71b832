"""sweep.png."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from headstart.sweeping.finalize import LONGEST, _place, _title, draw_sweep, scales_of, short_label
from headstart.sweeping.trial_record import Trial


def trial(number: int, **values: Any) -> Trial:
    texts = {key.replace("__", "."): str(value) for key, value in values.items()}
    return Trial(f"t{number}", texts, None, {"valid/loss": 0.1 + number, "valid/acc": 0.9}, 1.0, "", "")


def axis(texts: list[str], scale: Any = None) -> tuple[str, list[float], list[str]]:
    """The scale of the axis, the places of the values on it, and its labels if they are categories."""
    axes = Figure().subplots()
    places = _place(axes, texts, scale)
    return axes.get_xscale(), places, [label.get_text() for label in axes.get_xticklabels()]


def test_axis__is_logarithmic_for_values_of_different_magnitudes() -> None:
    assert axis(["1e-4", "1e-3"])[:2] == ("log", [1e-4, 1e-3])
    assert axis(["0.2", "0.4"])[:2] == ("linear", [0.2, 0.4])
    assert axis(["0", "1000"])[0] == "linear"


def test_axis__follows_the_search_space() -> None:
    assert axis(["0.02", "0.03"], "log")[0] == "log"
    assert axis(["0.01", "0.7"], "linear")[0] == "linear"
    _, places, labels = axis(["512", "64", "128", "64"], "choice")
    assert (places, labels) == ([2, 0, 1, 0], ["64", "128", "512"])


def test_axis__names_are_categories() -> None:
    _, places, labels = axis(["none", "full", "none"])
    assert (places, labels) == ([1, 0, 1], ["full", "none"])


def test_scales__of_search_spaces() -> None:
    params = {"model.lr": "tag(log, interval(1e-4, 1e-2))", "model.dropout": "interval(0.0, 0.7)"}
    params |= {"model.hidden_dim": "choice(64, 128)", "seed": "range(1, 9)", "data.batch_size": "16,32"}
    overrides = ["model.dropout=tag(log, interval(0.1, 0.7))", "trainer.max_epochs=3"]
    expected = {"model.lr": "log", "model.dropout": "log", "model.hidden_dim": "choice", "seed": "linear"}
    assert scales_of(params, overrides) == expected


def test_label__long_ones_are_shortened() -> None:
    assert short_label("0.0048851234") == "0.004885"
    long = short_label("/home/somebody/a long folder/weights.pth")
    assert len(long) <= LONGEST
    assert long.startswith("/home/")
    assert long.endswith("weights.pth")


@pytest.mark.parametrize("objective", ["valid/loss", "valid/acc"])
def test_title__has_objective_direction_and_the_best(objective: str) -> None:
    text = _title([trial(0, model__lr=0.01), trial(1, model__lr=0.1)], objective, 6)
    better = "lower" if objective == "valid/loss" else "higher"
    assert text.splitlines()[0] == f"{objective} of 2 trials ({better} is better)"
    assert text.splitlines()[1].endswith("with model.lr=0.01")


@pytest.mark.slow
@pytest.mark.parametrize("keys", [1, 5])
def test_plot__any_number_of_keys(tmp_path: Path, keys: int) -> None:
    trials = [trial(n, **{f"model__key{key}": 10.0 ** (n + key) for key in range(keys)}) for n in range(3)]
    draw_sweep(trials, "valid/loss", tmp_path / "sweep.png", {"model.key0": "choice"})
    with Image.open(tmp_path / "sweep.png") as image:
        colours = {colour for _, colour in image.convert("RGB").getcolors(1 << 24) or []}
    assert (214, 39, 40) in colours, "the best trial is marked"
