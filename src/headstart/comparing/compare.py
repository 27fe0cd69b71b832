"""Ranks backbones by cross-validation of simple classifiers on their unaugmented features.

The test split is left alone: choosing a backbone by it would make its accuracy an optimistic one.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from headstart.backbones.backbone import Backbone
from headstart.backbones.load import load_backbone
from headstart.commands import shown
from headstart.comparing.candidate import Candidate, ranked
from headstart.comparing.table import describe, write
from headstart.config.model import arch_and_weights
from headstart.config.train import TrainSettings
from headstart.data.groups import grouped_folds
from headstart.data.manifest import Manifest
from headstart.data.prepare import prepare_data
from headstart.datasets.make import make_dataset
from headstart.errors import HeadstartError
from headstart.evaluation.cross_validation import cross_validate
from headstart.evaluation.probes import Array, Labelled
from headstart.features.encoder import Encoder
from headstart.log import log
from headstart.marker import RUN, claim
from headstart.run_folder import RunFolder
from headstart.training.unaugmented import encode_unaugmented

SPLITS = ("train", "valid")
# Images to classify; more would take minutes.
MOST_IMAGES = 10_000
# Images per call, and calls, to measure the speed with.
SPEED_BATCH, SPEED_CALLS = 16, 5


def compare(settings: TrainSettings) -> bool:
    """Ranks the backbones in `model.archs`, and writes compare.csv and compare.json.

    Returns:
        Whether any of them could be loaded.

    Raises:
        HeadstartError: the data are invalid.
    """
    make_dataset(settings.data, settings.data.seed)
    manifest = prepare_data(settings.data, settings.data.seed).manifest
    manifest = replace(manifest, splits={name: manifest.splits[name] for name in SPLITS})
    found = ranked([_candidate(name, settings, manifest) for name in settings.model.archs or ()])
    run = RunFolder(Path(settings.run_dir))
    claim(run.path, RUN, "hydra.run.dir")
    manifest.write(run.split)
    write(found, run.compared)
    log.info("%s", describe(found))
    log.info("%s", shown(run.compared))
    return found[0].reason is None


def _candidate(name: str, settings: TrainSettings, manifest: Manifest) -> Candidate:
    arch, weights = arch_and_weights(name, settings.model.weights)
    settings = replace(settings, model=replace(settings.model, arch=arch, weights=weights))
    try:
        backbone = load_backbone(settings.model, settings.data, seed=settings.seed)
    except HeadstartError as error:
        return Candidate(arch, weights, reason=str(error))
    data, folds = _labelled(manifest, encode_unaugmented(settings, manifest, backbone), settings.seed)
    return Candidate(
        arch,
        weights,
        cross_validate(data, folds),
        _images_per_second(backbone, settings.features.precision),
        sum(tensor.nbytes for tensor in backbone.network.state_dict().values()) / 1e6,
        backbone.embedding_dim,
    )


def _labelled(manifest: Manifest, features: dict[str, Array], seed: int) -> tuple[Labelled, Array]:
    """At most MOST_IMAGES of the images of all splits, and the fold of each."""
    splits = manifest.splits.items()
    labels = np.concatenate([np.array(split.labels) for _, split in splits])
    paths = [path for _, split in splits for path in split.paths]
    contents = [content for _, split in splits for content in split.contents]
    matrix = np.concatenate([np.asarray(features[name], np.float32) for name, _ in splits])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(labels))[:MOST_IMAGES])
    images = [paths[index] for index in chosen], [contents[index] for index in chosen]
    folds = grouped_folds(labels[chosen], *images, manifest.groups or None, seed)
    return Labelled(matrix, labels, len(manifest.classes))[chosen], folds


def _images_per_second(backbone: Backbone, precision: str) -> float:
    """Of the backbone alone, uncompiled."""
    encoder = Encoder(backbone, precision=precision, compile=False)
    size = backbone.preprocessing.image_size
    images = torch.zeros(SPEED_BATCH, 3, size, size, dtype=torch.uint8)
    encoder(images)
    seconds = []
    for _ in range(SPEED_CALLS):
        start = time.perf_counter()
        # A copy to the CPU waits for the device.
        encoder(images).cpu()
        seconds.append(time.perf_counter() - start)
    # Whatever else the machine does only takes time.
    return SPEED_BATCH / min(seconds)
