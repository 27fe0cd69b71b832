"""task=label: chooses which images without labels to label next, writes it down, and takes over their labels.

It chooses those that the classifier is unsure about, each for others like it.
"""

import os
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from headstart.config.model import has_photo_features
from headstart.config.train import TrainSettings
from headstart.data.corrections import ADD, LEAVE_OUT, read_corrections
from headstart.data.image_info import ImageInfo, inspect_images
from headstart.data.manifest import Manifest, Split
from headstart.data.prepare import PreparedData
from headstart.data.preprocessing import Array
from headstart.errors import HeadstartError, listed
from headstart.evaluation.probes import in_parts, unit_rows
from headstart.features.source import FeatureSource
from headstart.files import PREDICTIONS, claim, write_csv
from headstart.log import log
from headstart.model.image_classifier import ImageClassifier
from headstart.predict.overlays import ContactSheets
from headstart.predict.sources import Prediction, common_folder, find_images
from headstart.report.style import typeface_for
from headstart.reviewing.queue import UNKNOWN, Item, Queue
from headstart.run_folder import RunFolder
from headstart.text import counted

# Among how many times as many of the most uncertain images those to label are spread out (β in Zhdanov 2019).
CANDIDATES = 10
# Cosine similarities of centred features: from the first one on, images are near duplicates; none have the second.
SIMILAR, NEVER = 0.9, 2.0
STEPS = 20  # of k-means, at most
# The name of the images without labels, where splits have theirs.
UNLABELLED = "unlabelled"
COLUMNS = ("path", "rank", "prediction", "probability", "margin", "reason")


@dataclass(frozen=True)
class Choice:
    """An image to label: its index, its margin, and how many uncertain images are nearest to it, itself included.

    The margin is the difference of its two highest probabilities.
    """

    index: int
    margin: float
    stands_for: int


def choose_next(
    features: Array, probabilities: Array, labelled: Array, *, count: int, seed: int, near: float = SIMILAR
) -> list[Choice]:
    """Returns at most `count` of N images to label next, those with the smallest margin first.

    Of the CANDIDATES × `count` images with the smallest margins, it chooses the nearest to each centre of `count`
    clusters, found by k-means with the weights 1 - margin: Zhdanov 2019, "Diverse mini-batch Active Learning". So they
    are uncertain, and differ from each other. No near duplicate of another candidate, or of an image with a label, is
    among the candidates; fewer than `count` are returned only if there are no others.

    Args:
        features: (N, d), and the classifier's `probabilities` (N, classes) for them.
        labelled: the features (M, d) of the images that have labels.
        seed: of the first centres; with the same one, the result is the same.
        near: the cosine similarity of centred features from which images are near duplicates.
    """
    margins = margins_of(probabilities)
    # As float64, so that the mean of many rows is exact.
    total = features.sum(0, dtype=np.float64) + labelled.sum(0, dtype=np.float64)
    mean = (total / (len(features) + len(labelled))).astype(np.float32)
    candidates = _distinct(features, labelled, mean, np.argsort(margins, kind="stable"), CANDIDATES * count, near)
    if not len(candidates):
        return []
    directions = unit_rows(features[candidates] - mean)
    nearest, sizes = _nearest_to_centres(directions, 1 - margins[candidates], min(count, len(candidates)), seed)
    chosen = candidates[nearest]
    order = np.argsort(margins[chosen], kind="stable")
    return [Choice(int(chosen[of]), float(margins[chosen[of]]), int(sizes[of])) for of in order]


def margins_of(probabilities: Array) -> Array:
    """Returns the difference (N) of the two highest of probabilities (N, classes)."""
    ranked = np.sort(probabilities, axis=1)[:, ::-1]
    margins: Array = ranked[:, 0] - ranked[:, 1:2].sum(1)
    return margins


def _distinct(features: Array, labelled: Array, mean: Array, order: Array, most: int, near: float) -> Array:
    """The first `most` images in this `order` that are no near duplicates of labelled ones, or of one before."""
    kept: list[int] = []
    for start in range(0, len(order), most):
        rows = order[start : start + most]
        directions = unit_rows(features[rows] - mean)
        highest = np.full(len(rows), -1.0)
        for part in chain(in_parts(labelled), in_parts(features[kept])):
            highest = np.maximum(highest, (directions @ unit_rows(part - mean).T).max(1, initial=-1))
        new: list[int] = []
        among = directions @ directions.T
        for place in np.flatnonzero(highest < near).tolist():
            if among[place, new].max(initial=-1) < near:
                new.append(place)
        kept += rows[new].tolist()
        if len(kept) >= most:
            break
    return np.array(kept[:most], int)


def _nearest_to_centres(points: Array, weights: Array, count: int, seed: int) -> tuple[Array, Array]:
    """The indices (count) of points (N, d), each the nearest to a centre of weighted k-means, and the clusters' sizes.

    No point is chosen twice; N is at least `count`.
    """
    # Where all weights are 0, all are the same.
    weights = weights + 1e-9
    centres = points[_spread(points, weights, count, np.random.default_rng(seed))]
    nearest = np.full(len(points), -1)
    for _ in range(STEPS):
        before, nearest = nearest, _distances(points, centres).argmin(1)
        if (nearest == before).all():
            break
        for cluster in np.unique(nearest):
            own = nearest == cluster
            centres[cluster] = np.average(points[own], axis=0, weights=weights[own])
    chosen: list[int] = []
    for distances in _distances(centres, points):
        distances[chosen] = np.inf
        chosen.append(int(distances.argmin()))
    return np.array(chosen, int), np.bincount(nearest, minlength=count)


def _spread(points: Array, weights: Array, count: int, generator: np.random.Generator) -> list[int]:
    """The indices of the first centres: k-means++ (Arthur and Vassilvitskii 2007), from the highest weight on."""
    chosen = [int(weights.argmax())]
    distances = _distances(points, points[chosen])[:, 0]
    while len(chosen) < count:
        # Also of equal points, none is chosen twice.
        chances = (distances + 1e-12) * weights
        chances[chosen] = 0
        chosen.append(int(generator.choice(len(points), p=chances / chances.sum())))
        distances = np.minimum(distances, _distances(points, points[chosen[-1:]])[:, 0])
    return chosen


def _distances(points: Array, others: Array) -> Array:
    """Squared distances (N, M)."""
    squares = (points**2).sum(1)[:, None] + (others**2).sum(1)[None]
    return np.maximum(squares - 2 * points @ others.T, 0)


def find_unlabelled(source: str | list[str], data: PreparedData) -> Split:
    """Returns the readable images that `source` names, each content once, but none that the data have had all along.

    Those that corrections have added to the data since are still among them, so that their features stay stored
    together. Unreadable ones are counted and named.

    Raises:
        HeadstartError: there are none.
    """
    places = [Path(os.path.abspath(path)) for path in find_images(source)]
    root = common_folder(places)
    infos = inspect_images(root, [place.relative_to(root).as_posix() for place in places])
    if unreadable := [path for path, info in infos.items() if info.fault is not None]:
        log.warning("%s cannot be read, and left out: %s", counted(len(unreadable), "image"), listed(unreadable))
    first: dict[str, str] = {}
    for path, info in infos.items():
        if info.fault is None:
            first.setdefault(info.sha256, path)
    known = {info.sha256 for path, info in data.infos.items() if path not in data.scan.added}
    if not (paths := [path for content, path in first.items() if content not in known]):
        raise HeadstartError(f"label.source={source} has no readable image that the data do not have already")
    return _split(root, paths, infos)


def _split(root: Path, paths: list[str], infos: Mapping[str, ImageInfo]) -> Split:
    readings = tuple(sorted({infos[path].reading for path in paths} - {""}))
    contents = tuple(infos[path].sha256 for path in paths)
    return Split(root, tuple(paths), (UNKNOWN,) * len(paths), contents, readings=readings)


def decided_contents(file: Path) -> set[str]:
    """Returns the SHA-256 of the images that corrections in `file` add or leave out."""
    rows = read_corrections(file) if file.exists() else []
    return {row.sha256 for row in rows if row.action in (ADD, LEAVE_OUT)}


@dataclass(frozen=True)
class Ranking:
    """The images to label next.

    `manifest` has those of the data, and the chosen ones as the split UNLABELLED, in the order of the `choices`;
    `features` are those (N, d) of each split, and `probabilities` (N, classes) the classifier's for the chosen ones.
    """

    manifest: Manifest
    features: dict[str, Array]
    choices: list[Choice]
    probabilities: Array

    @property
    def reasons(self) -> list[str]:
        """Why each of the chosen images is to be labelled."""
        return [
            f"{' or '.join(prediction.classes[:2])}? margin {choice.margin:.2f}, stands for {choice.stands_for}"
            for prediction, choice in zip(self.predictions, self.choices, strict=True)
        ]

    @cached_property
    def predictions(self) -> list[Prediction]:
        """The predictions for the chosen images, all classes in the order of their probability."""
        split, classes = self.manifest.splits[UNLABELLED], self.manifest.classes
        order = np.argsort(-self.probabilities, axis=1, kind="stable")
        return [
            Prediction(split.root / path, tuple(classes[label] for label in by_rank), tuple(row[by_rank].tolist()))
            for path, row, by_rank in zip(split.paths, self.probabilities, order, strict=True)
        ]


def rank_unlabelled(
    settings: TrainSettings, classifier: ImageClassifier, data: PreparedData, pool: Split, decided: Collection[str]
) -> Ranking:
    """Chooses `settings.label.count` images of `pool` that are not among the `decided` contents.

    Features come from the store, or are stored now, if the backbone is frozen. `classifier` is on its device.

    Raises:
        HeadstartError: none is left.
    """
    splits = data.manifest.splits | {UNLABELLED: pool}
    source = FeatureSource(
        settings,
        replace(data.manifest, splits=splits),
        classifier.encoder,
        classifier.recipe.preprocessing,
        frozen_epochs=classifier.recipe.finetune.first_epoch,
    )
    features = {name: _features(classifier, source, name) for name in splits}
    left = np.array([row for row, content in enumerate(pool.contents) if content not in decided], int)
    if not len(left):
        raise HeadstartError(f"all {counted(len(pool), 'image')} of label.source={settings.label.source} are labelled")
    with torch.inference_mode():
        on_device = torch.from_numpy(features[UNLABELLED][left]).to(classifier.encoder.device)
        probabilities = classifier.predict_proba(on_device).cpu().double().numpy()
    labelled = np.concatenate([features[name] for name in data.manifest.splits])
    # As in the audit: by features of other backbones, different images may be as similar as copies.
    near = SIMILAR if has_photo_features(classifier.recipe.backbone.weights) else NEVER
    choices = choose_next(
        features[UNLABELLED][left], probabilities, labelled, count=settings.label.count, seed=settings.seed, near=near
    )
    if not choices:
        raise HeadstartError(
            f"label.source={settings.label.source} has near duplicates of labelled images left, and nothing else"
        )
    chosen = np.array([choice.index for choice in choices], int)
    rows = left[chosen]
    of_chosen = replace(
        pool,
        paths=tuple(pool.paths[row] for row in rows),
        labels=(UNKNOWN,) * len(rows),
        contents=tuple(pool.contents[row] for row in rows),
    )
    manifest = replace(data.manifest, splits=splits | {UNLABELLED: of_chosen})
    return Ranking(manifest, features | {UNLABELLED: features[UNLABELLED][rows]}, choices, probabilities[chosen])


@torch.no_grad()
def _features(classifier: ImageClassifier, source: FeatureSource, split: str) -> Array:
    """The features (N, d) of a split, as float32, whether or not they are stored."""
    classifier.eval()
    device = classifier.encoder.device
    return np.concatenate([classifier.embed(batch.to(device)).cpu().numpy() for batch, _ in source.eval_loader(split)])


def write_ranking(ranking: Ranking, folder: Path) -> None:
    """Writes label_next.csv, with a row for each image, and contact sheets into `folder`."""
    claim(folder, PREDICTIONS)
    rows = (
        (of.path, rank, of.label, f"{of.probabilities[0]:.6g}", f"{choice.margin:.6g}", reason)
        for rank, (of, choice, reason) in enumerate(
            zip(ranking.predictions, ranking.choices, ranking.reasons, strict=True), start=1
        )
    )
    write_csv(folder / "label_next.csv", COLUMNS, rows)
    with closing(ContactSheets(folder, typeface_for(ranking.manifest.classes), ranking.manifest.depth)) as sheets:
        for prediction, reason in zip(ranking.predictions, ranking.reasons, strict=True):
            sheets.add(replace(prediction, doubt=reason))


class Labelling(Queue):
    """The images to label next; a label adds the image to the data, by a correction."""

    actions = (ADD, LEAVE_OUT)

    def __init__(self, run: RunFolder, ranking: Ranking, file: Path) -> None:
        super().__init__(run, ranking.manifest, ranking.features, file)
        own = [index for index, split in enumerate(self._splits) if split == UNLABELLED]
        self.items = [
            Item(index, (reason,), str(prediction.label))
            for index, reason, prediction in zip(own, ranking.reasons, ranking.predictions, strict=True)
        ]

    def decide(self, index: int, action: str, label: str = "") -> dict[str, str] | None:
        """Writes what is to be done with an image to label, as `Queue.decide` does; the others are only shown."""
        if index not in {item.index for item in self.items}:
            raise HeadstartError(f"image {index} is not one to label")
        return super().decide(index, action, label)

    def _written_path(self, index: int) -> str:
        """Relative to the folder of the corrections if both may be moved together, and absolute otherwise."""
        path = self.paths[index]
        if self._splits[index] != UNLABELLED:
            return path
        place, folder = self.manifest.splits[UNLABELLED].root / path, Path(os.path.abspath(self.file.parent))
        return os.path.relpath(place, folder) if place.is_relative_to(folder.parent) else str(place)
