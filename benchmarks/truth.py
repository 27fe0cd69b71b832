"""Whether the report's answers come true: each is given many times, in situations whose outcome is known.

python benchmarks/truth.py WEIGHTS DATA...: MobileNetV2's weights, and flat class folders. To these come digits from
scikit-learn and generated shapes at three sizes. cleanlab is compared with where it is installed.
"""

import argparse
import importlib.util
import itertools
import math
import multiprocessing
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save
from hydra import compose, initialize_config_dir
from PIL import Image
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch.nn import functional as F

from headstart.auditing.report import with_near_duplicates
from headstart.backbones.backbone import load_backbone
from headstart.cli.arguments import for_hydra, register_resolvers
from headstart.config.train import TrainSettings, check_train
from headstart.data.prepare import prepare_data
from headstart.data.preprocessing import Array
from headstart.datasets.shapes import CLASSES, draw_image
from headstart.evaluation.answers import find_label_issues, learning_curve
from headstart.evaluation.predictions import wilson_interval
from headstart.evaluation.probes import Labelled, fit_head, predicted, ridge
from headstart.features.source import encode_unaugmented
from headstart.machine import core_count
from headstart.model.closed_form import fit_temperature, scale
from headstart.model.image_classifier import Familiarity, build_head
from headstart.model.recipe import Recipe, recipe_of
from headstart.training.fit import best_of, cross_validated

ROOT = Path(__file__).parents[1]
DRAWS, SEEDS = 12, 3
COUNTS = (5, 10, 20, 40, 80)  # training images per class
SWAPPED = (0.0, 0.02, 0.05, 0.1)
EPOCHS, BATCH = 20, 32
HEADS = ("mlp", "linear", "logistic", "ridge", "knn", "mean")


@dataclass(frozen=True)
class Images:
    """A set of images by their features, which of them depend on each other, and what a head is made with."""

    data: Labelled
    units: Array
    recipe: Recipe

    def __getitem__(self, rows: Array) -> "Images":
        return Images(self.data[rows], self.units[rows], self.recipe)

    def splits(self, seed: int, *shares: float) -> "Iterator[Images]":
        """Yields random parts with these shares of each class."""
        generator = np.random.default_rng(seed)
        ranks = np.empty(len(self.data))
        for label in range(self.data.classes):
            own = np.flatnonzero(self.data.labels == label)
            ranks[own] = generator.permutation(len(own)) / len(own)
        bounds = np.cumsum([0, *shares])
        for low, high in itertools.pairwise(bounds):
            yield self[np.flatnonzero((ranks >= low - 1e-9) & (ranks < high - 1e-9))]


def load(root: Path, weights: Path, side: int | None = None) -> Images:
    """Encodes flat class folders, at `side` pixels."""
    size = () if side is None else (f"data.image_size={side}", f"data.resize_size={side}")
    settings = settings_of(
        "data=folder", f"data.root={root}", "model.arch=mobilenet_v2", f"model.weights={weights}", *size
    )
    manifest = prepare_data(settings.data, settings.data.seed).manifest
    backbone = load_backbone(settings.model, settings.data, seed=0)
    stored = encode_unaugmented(settings, manifest, backbone)
    units = with_near_duplicates(manifest, stored).units
    return Images(
        Labelled(
            np.concatenate([np.asarray(stored[name], np.float32) for name in manifest.splits]),
            np.concatenate([np.array(split.labels) for split in manifest.splits.values()]),
            len(manifest.classes),
        ),
        np.concatenate([units[name] for name in manifest.splits]),
        recipe_of(settings, backbone, manifest),
    )


def settings_of(*overrides: str) -> TrainSettings:
    """Returns the settings of train.py with these overrides."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf")):
        return check_train(compose("train", [*for_hydra(overrides), "run_dir=run"]))


def forecasts(images: Images) -> dict[str, Any]:
    """The accuracy with twice the images, forecast and reached; coverage and width of the 90 % interval."""
    errors, inside, widths, changes = [], [], [], []
    sizes = np.bincount(images.data.labels)
    for count in (count for count in COUNTS if sizes.min() >= 2 * count + 8):
        for seed in range(DRAWS):
            share = count / sizes.mean()
            train, more, rest = images.splits(seed, share, share, 1 - 2 * share)
            rows = np.random.default_rng(seed).permutation(len(rest.data))[: (60, 150, 300)[seed % 3]]
            head, _ = fit_head("ridge", train.data, train.units)
            penalty = float(head.penalty)
            curve = learning_curve(train.data, rest.data[rows], penalty, train.units, seed)
            if curve is None:
                continue
            value, low, high = curve.forecast
            both = Labelled(
                *(np.concatenate(pair) for pair in zip(parts(train), parts(more), strict=True)), train.data.classes
            )
            reached = float(
                (predicted(ridge(both, penalty), rest.data[rows].features) == rest.data[rows].labels).mean()
            )
            errors.append(reached - value)
            changes.append(reached - curve.accuracies[-1])
            inside.append(low - 1e-9 <= reached <= high + 1e-9)
            widths.append(high - low)
    return {
        "situations": len(errors),
        "coverage": share_of(inside),
        "width": mean(widths),
        "bias": mean(errors),
        "error": mean(np.abs(errors)),
        "error of no change": mean(np.abs(changes)),
    }


def parts(images: Images) -> tuple[Array, Array]:
    return images.data.features, images.data.labels


def label_issues(images: Images) -> dict[str, Any]:
    """Labels listed with a share of them swapped; precision, recall, the ranking, the estimate, and cleanlab's."""
    found = {}
    for share in SWAPPED:
        rows = [_swapped(images, share, seed) for seed in range(SEEDS)]
        found[f"{share:.0%} swapped"] = {key: mean([row[key] for row in rows if key in row]) for key in rows[0]}
    return found


def _swapped(images: Images, share: float, seed: int) -> dict[str, float]:
    generator = np.random.default_rng(seed)
    labels, swapped = images.data.labels.copy(), np.zeros(len(images.data), bool)
    swapped[generator.permutation(len(labels))[: round(share * len(labels))]] = True
    labels[swapped] = (
        labels[swapped] + generator.integers(1, images.data.classes, swapped.sum())
    ) % images.data.classes
    data = Labelled(images.data.features, labels, images.data.classes)
    issues = find_label_issues([data], images.units, seed)
    row = {
        "swapped": float(swapped.sum()),
        "estimate": issues.estimate,
        "holds": float(issues.low <= swapped.sum() <= issues.high),
        **against(issues.listed, swapped, ""),
    }
    if swapped.any():
        row["in the first tenth"] = float(swapped[issues.order[: len(labels) // 10]].sum() / swapped.sum())
    if importlib.util.find_spec("cleanlab"):
        from cleanlab.filter import find_label_issues as by_cleanlab  # type: ignore[import-not-found]
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        from sklearn.model_selection import cross_val_predict  # type: ignore[import-untyped]
        from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
        from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=100))
        probs = cross_val_predict(model, data.features, labels, method="predict_proba")
        row |= against(by_cleanlab(labels, probs, n_jobs=1), swapped, "cleanlab ")
    return row


def against(listed: Array, swapped: Array, prefix: str) -> dict[str, float]:
    """How many labels are listed, and how many of these, and of the swapped ones, are both."""
    counts = {f"{prefix}listed": float(listed.sum())}
    if swapped.any():
        both = float((listed & swapped).sum())
        counts |= {f"{prefix}precision": both / max(1, listed.sum()), f"{prefix}recall": both / swapped.sum()}
    return counts


def heads(images: Images) -> dict[str, Any]:
    """The test accuracy of each head and of what auto chooses, and how temperatures change the log-loss."""
    accuracies: dict[str, list[float]] = {}
    changes, chosen = [], []
    for seed in range(SEEDS):
        train, valid, test = images.splits(seed, 0.7, 0.15, 0.15)
        recipe = replace(images.recipe, seed=seed)
        log_probs = {kind: fitted(recipe, kind, train, valid, (valid, test)) for kind in HEADS}
        labels = torch.from_numpy(test.data.labels)
        for kind, (on_valid, on_test) in log_probs.items():
            accuracies.setdefault(kind, []).append(float((on_test.argmax(1) == labels).double().mean()))
            temperature = fit_temperature(on_valid, torch.from_numpy(valid.data.labels))
            changes.append(float(F.nll_loss(scale(on_test, temperature), labels) - F.nll_loss(on_test, labels)))
        pooled = [
            np.concatenate(pair)
            for pair in zip((*parts(train), train.units), (*parts(valid), valid.units), strict=True)
        ]
        found = cross_validated(recipe, *map(torch.from_numpy, pooled[:2]), pooled[2], epochs=EPOCHS, batch_size=BATCH)
        chosen.append(best_of(found, pooled[2]).kind)
        accuracies.setdefault("auto", []).append(accuracies[chosen[-1]][-1])
    means = {kind: mean(values) for kind, values in accuracies.items()}
    return {"accuracy": means, "chosen": chosen, "log_loss_by_temperature": mean(changes)}


def fitted(recipe: Recipe, kind: str, train: Images, valid: Images, other: tuple[Images, ...]) -> list[torch.Tensor]:
    """Returns the log-probabilities of `other` images by a head fitted to `train`, of the best epoch on `valid`."""
    if kind == "mean":
        both = (fitted(recipe, part, train, valid, other) for part in ("mlp", "ridge"))
        return [torch.logaddexp(*pair) - math.log(2) for pair in zip(*both, strict=True)]
    inputs = [torch.from_numpy(of.data.features) for of in (train, valid, *other)]
    labels = [torch.from_numpy(of.data.labels) for of in (train, valid)]
    if kind not in ("mlp", "linear"):
        head, _ = fit_head(kind, train.data, train.units)
        return [head(features).detach().log_softmax(1) for features in inputs[2:]]
    torch.manual_seed(recipe.seed)
    layers = build_head(replace(recipe, head=kind), inputs[0].shape[1])
    optimizer = torch.optim.AdamW(layers.parameters(), lr=recipe.lr, fused=True)
    lowest, best = float("inf"), inputs[2:]
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels[0])).split(BATCH):
            optimizer.zero_grad()
            F.nll_loss(layers.train()(inputs[0][batch]), labels[0][batch]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = float(F.nll_loss(layers.eval()(inputs[1]), labels[1]))
            if loss < lowest:
                lowest, best = loss, [layers(features) for features in inputs[2:]]
    return best


def unusual(images: Images, far: Images) -> dict[str, Any]:
    """How many ordinary, near (other classes of the set) and far images (another set) are unusual, and the AUROC."""
    false, found, scores = [], {"near": [], "far": []}, {"near": [], "far": []}
    classes = images.data.classes
    for seed in range(DRAWS):
        known = np.random.default_rng(seed).permutation(classes)[: max(1, classes // 2)]
        for is_near, own in ((False, images), (True, images[np.flatnonzero(np.isin(images.data.labels, known))])):
            train, valid, test = own.splits(seed, 0.6, 0.2, 0.2)
            familiarity = Familiarity(classes, train.data.features.shape[1])
            familiarity.observe(torch.from_numpy(train.data.features), torch.from_numpy(train.data.labels))
            familiarity.fit_means(*familiarity.observed)
            familiarity.fit_threshold(familiarity(torch.from_numpy(valid.data.features)))
            ordinary = familiarity(torch.from_numpy(test.data.features))
            if not is_near:
                false.append(float((ordinary < familiarity.threshold).double().mean()))
            elif classes < 4:
                continue
            others = images[np.flatnonzero(~np.isin(images.data.labels, known))] if is_near else far
            other = familiarity(torch.from_numpy(others.data.features))
            kind = "near" if is_near else "far"
            found[kind].append(float((other < familiarity.threshold).double().mean()))
            labels = np.r_[np.zeros(len(other)), np.ones(len(ordinary))]
            scores[kind].append(float(roc_auc_score(labels, np.r_[other, ordinary])))
    shares = {f"{kind} found": mean(values) for kind, values in found.items() if values}
    return {"ordinary": mean(false)} | shares | {f"{kind} AUROC": mean(v) for kind, v in scores.items() if v}


def mean(values: Any) -> float:
    return round(float(np.mean(values)), 4)


def share_of(outcomes: list[bool]) -> list[float]:
    """The share that is true, and the ends of its 95 % interval."""
    return [mean(outcomes), *(round(end, 3) for end in wilson_interval(np.array(outcomes)))]


def generated(folder: Path) -> Iterator[tuple[str, Path, int]]:
    """Draws the sets that need no data, and yields their names, folders, and the size of their images."""
    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / "digits" / str(label) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels / 16 * 255).astype(np.uint8)).resize((96, 96)).save(path)
    yield "digits", folder / "digits", 96
    for side in (64, 96, 160):
        for label in CLASSES["ten"]:
            texture, shape = label.split("_")
            for number in range(90):
                path = folder / f"shapes{side}" / label / f"{number}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                draw_image(shape, texture, 1000 * side + number).save(path)
        yield f"shapes at {side} pixels", folder / f"shapes{side}", side


def replay(name: str, images: Images, far: Images) -> dict[str, Any]:
    """Gives every answer about one set, on one core."""
    torch.set_num_threads(1)
    with threadpool_limits(1, "blas"):
        result = {
            "images": len(images.data),
            "classes": images.data.classes,
            "forecasts": forecasts(images),
            "label_issues": label_issues(images),
            "heads": heads(images),
            "unusual": unusual(images, far),
        }
    print(name, result, flush=True)
    return result


def main(weights: Path, roots: list[Path]) -> None:
    """Replays every answer on each set."""
    with tempfile.TemporaryDirectory() as folder:
        sets = {root.name: load(root, weights) for root in roots}
        sets |= {name: load(root, weights, side) for name, root, side in generated(Path(folder))}
    names = list(sets)
    others = [sets[names[(number + 1) % len(names)]] for number in range(len(names))]
    # Two sets at a time, each on one core, are faster than one on two. A fork would wait for threads that it lacks.
    with ProcessPoolExecutor(core_count(), multiprocessing.get_context("spawn")) as pool:
        results = dict(zip(names, pool.map(replay, names, sets.values(), others), strict=True))
    save("truth", sets=results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    options = parser.parse_args()
    main(options.weights, options.data)
