"""Whether labelling the images that task=label chooses teaches a classifier more than labelling random ones.

python benchmarks/active_learning.py WEIGHTS DATA...: MobileNetV2's weights, and flat class folders. To these come
digits from scikit-learn, and generated shapes, with the same weights and with the bundled ones. Of each class, 5 images
have labels at first; 20 are added at a time.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save
from truth import generated, load, settings_of

from headstart.backbones.backbone import load_backbone
from headstart.data.preprocessing import Array
from headstart.datasets import open_data
from headstart.evaluation.probes import Labelled, fit_head
from headstart.features.source import encode_unaugmented
from headstart.model.closed_form import ClosedForm
from headstart.reviewing.labelling import NEVER, SIMILAR, choose_next

SEEDS, FIRST, ROUNDS, COUNT = 10, 5, 10, 20
TESTED = 0.4  # of each class
DRAWS = 3  # of random images, whose mean is compared with
HEAD = "ridge"
# Images to label: of a pool, by their probabilities (N, classes) and the images that have labels.
Choose = Callable[[Labelled, Array, Labelled, int], Array]


def choosing(near: float) -> Choose:
    """Returns what task=label chooses, where `near` is the similarity from which on images are near duplicates."""

    def choose(pool: Labelled, probabilities: Array, labelled: Labelled, seed: int) -> Array:
        choices = choose_next(pool.features, probabilities, labelled.features, count=COUNT, seed=seed, near=near)
        return np.array([choice.index for choice in choices], int)

    return choose


def drawn(pool: Labelled, probabilities: Array, labelled: Labelled, seed: int) -> Array:
    """Random images."""
    return np.random.default_rng([seed, len(labelled)]).permutation(len(pool))[:COUNT]


def divided(data: Labelled, seed: int) -> tuple[Labelled, Labelled, Labelled]:
    """The images that have labels at first, the pool, and those to test with."""
    generator = np.random.default_rng(seed)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in range(data.classes):
        own = generator.permutation(np.flatnonzero(data.labels == label)).tolist()
        tested = round(TESTED * len(own))
        for part, rows in zip(parts, (own[tested : tested + FIRST], own[tested + FIRST :], own[:tested]), strict=True):
            part += rows
    first, pool, test = (data[np.array(part)] for part in parts)
    return first, pool, test


def accuracies(data: Labelled, choose: Choose, seed: int, draw: int) -> Array:
    """The test accuracy (ROUNDS + 1) at first, and after each round."""
    labelled, pool, test = divided(data, seed)
    found = []
    for number in range(ROUNDS + 1):
        head, _ = fit_head(HEAD, labelled)
        found.append(float((probabilities_of(head, test).argmax(1) == test.labels).mean()))
        if number < ROUNDS:
            rows = choose(pool, probabilities_of(head, pool), labelled, seed + 1000 * draw)
            labelled = Labelled(
                np.concatenate([labelled.features, pool.features[rows]]),
                np.concatenate([labelled.labels, pool.labels[rows]]),
                data.classes,
            )
            pool = pool[np.setdiff1d(np.arange(len(pool)), rows)]
    return np.array(found)


def probabilities_of(head: ClosedForm, images: Labelled) -> Array:
    probabilities: Array = head(torch.from_numpy(images.features)).detach().double().softmax(1).numpy()
    return probabilities


def compared(data: Labelled, near: float) -> dict[str, Any]:
    """How many seeds have a larger area under the curve than with random images, and how accuracies differ."""
    ours = np.stack([accuracies(data, choosing(near), seed, 0) for seed in range(SEEDS)])
    random = np.stack(
        [np.mean([accuracies(data, drawn, seed, draw) for draw in range(DRAWS)], axis=0) for seed in range(SEEDS)]
    )
    areas, rounds = (ours - random).mean(1), (ours - random).mean(0)
    return {
        "images": len(data),
        "classes": data.classes,
        "wins": int((areas > 0).sum()),
        "area": rounded(areas.mean()),
        "worst_round": rounded(rounds[1:].min()),
        "accuracy": {"chosen": rounded(ours.mean(0)), "random": rounded(random.mean(0))},
        "images_saved": saved(ours.mean(0), random.mean(0)),
    }


def saved(ours: Array, random: Array) -> int:
    """How many images fewer reach the accuracy of all the random ones; in steps of COUNT."""
    return COUNT * (ROUNDS - int(np.argmax(ours >= random[-1]))) if ours.max() >= random[-1] else 0


def rounded(values: Any) -> Any:
    return np.round(values, 4).tolist()


def quickstart(folder: Path) -> Labelled:
    """The images of experiment=quickstart, 90 of each class, by the features of its backbone."""
    settings = settings_of("experiment=quickstart", f"data.root={folder / 'quickstart'}", "data.per_class=90")
    manifest = open_data(settings.data).manifest
    backbone = load_backbone(settings.model, settings.data, seed=0)
    stored = encode_unaugmented(settings, manifest, backbone)
    features = np.concatenate([np.asarray(stored[name], np.float32) for name in manifest.splits])
    labels = np.concatenate([np.array(split.labels) for split in manifest.splits.values()])
    return Labelled(features, labels, len(manifest.classes))


def main(weights: Path, roots: list[Path]) -> None:
    """Labels each set anew, by choice and at random."""
    with tempfile.TemporaryDirectory() as folder:
        sets = {root.name: (load(root, weights).data, SIMILAR) for root in roots}
        sets["shapes, bundled backbone"] = quickstart(Path(folder)), NEVER
        for name, root, side in generated(Path(folder)):
            if name in ("digits", "shapes at 96 pixels"):
                sets[name] = load(root, weights, side).data, SIMILAR
    results = {}
    for name, (data, near) in sets.items():
        results[name] = compared(data, near)
        print(name, results[name], flush=True)
    save("active_learning", seeds=SEEDS, first=FIRST, rounds=ROUNDS, count=COUNT, head=HEAD, sets=results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    options = parser.parse_args()
    main(options.weights, options.data)
