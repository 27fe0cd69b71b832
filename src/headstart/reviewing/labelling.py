"""task=label: which images without labels to label next, what is written about them, and their labels."""

import os
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from headstart.config.model import has_photo_features
from headstart.config.train import TrainSettings
from headstart.data.corrections import ADD, LEAVE_OUT, read_corrections
from headstart.data.image_info import ImageInfo, inspect_images
from headstart.data.manifest import Manifest, Split
from headstart.data.prepare import PreparedData
from headstart.errors import HeadstartError, listed
from headstart.evaluation.label_next import NEVER, SIMILAR, Choice, choose_next
from headstart.features.source import FeatureSource
from headstart.features.store import Array
from headstart.files import PREDICTIONS, claim, write_csv
from headstart.log import log
from headstart.model.image_classifier import ImageClassifier
from headstart.predict.overlays import ContactSheets
from headstart.predict.sources import Prediction, common_folder, find_images
from headstart.report.style import typeface_for
from headstart.reviewing.queue import UNKNOWN, Item, Queue
from headstart.run_folder import RunFolder
from headstart.text import counted

# The name of the images without labels, where splits have theirs.
UNLABELLED = "unlabelled"
COLUMNS = ("path", "rank", "prediction", "probability", "margin", "reason")


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
