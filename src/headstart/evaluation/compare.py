"""task=compare: backbones ranked by what their features are worth on one's own images.

The test split is left alone: choosing a backbone by it would make its accuracy an optimistic one.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from headstart.backbones.backbone import Backbone, load_backbone
from headstart.config.model import DEFAULT, arch_and_weights
from headstart.config.train import TrainSettings
from headstart.data.manifest import Manifest
from headstart.data.preprocessing import Array
from headstart.data.splits import FOLDS, unit_folds
from headstart.datasets import open_data
from headstart.errors import HeadstartError, listed
from headstart.evaluation.predictions import holm, mcnemar, wilson_interval
from headstart.evaluation.probes import COMPARED, Labelled, cross_validate
from headstart.features.encoder import Encoder
from headstart.features.source import encode_unaugmented
from headstart.files import RUN, claim, write_csv, write_json
from headstart.log import log, quoted, render_table, shown
from headstart.metrics import SIGNIFICANT
from headstart.run_folder import RunFolder

SPLITS = ("train", "valid")
# Images to classify; more would take minutes.
MOST_IMAGES = 10_000
# Images per call, and calls, to measure the speed with.
SPEED_BATCH, SPEED_CALLS = 16, 5


@dataclass(frozen=True)
class Candidate:
    """A backbone, or the `reason` why it could not be loaded.

    `correct` (N) says, of each simple classifier by its name, which images it classifies correctly; images of the same
    of `units` (N) depend on each other. `p_value` is that the candidate is as good as the first one, corrected for the
    number of candidates. `megabytes` are of its weights, in 10⁶ bytes.
    """

    arch: str
    weights: str | None
    correct: dict[str, Array] = field(default_factory=dict)
    images_per_second: float = 0.0
    megabytes: float = 0.0
    embedding_dim: int = 0
    reason: str | None = None
    p_value: float = 1.0
    units: Array | None = None

    def __str__(self) -> str:
        return f"{self.arch} ({self.shown_weights})"

    @property
    def shown_weights(self) -> str:
        """The name of the weights, or that of their file without its folder."""
        return "random" if self.weights is None else Path(self.weights).name

    @property
    def head(self) -> str:
        """The classifier with the highest accuracy."""
        return max(self.correct, key=lambda head: float(self.correct[head].mean()))

    @property
    def accuracy(self) -> float:
        """The accuracy of `head`."""
        return self.scores(self.head)[0]

    def scores(self, head: str) -> tuple[float, float, float]:
        """Returns the accuracy of the classifier `head`, and the ends of its 95 % confidence interval."""
        correct = self.correct[head]
        return float(correct.mean()), *wilson_interval(correct, self.units)


def compare(settings: TrainSettings) -> bool:
    """Ranks the backbones in `model.archs`, and writes compare.csv and compare.json.

    Returns:
        Whether any of them could be loaded.

    Raises:
        HeadstartError: the data are invalid.
    """
    manifest = open_data(settings.data).manifest
    manifest = replace(manifest, splits={name: manifest.splits[name] for name in SPLITS})
    candidates = ranked([_candidate(name, settings, manifest) for name in settings.model.archs or ()])
    run = RunFolder(Path(settings.run_dir))
    claim(run.path, RUN, "hydra.run.dir")
    manifest.write(run.split)
    write(candidates, run.compared)
    log.info("%s", describe(candidates))
    log.info("%s", shown(run.compared))
    return candidates[0].reason is None


def _candidate(name: str, settings: TrainSettings, manifest: Manifest) -> Candidate:
    arch, weights = arch_and_weights(name, settings.model.weights)
    settings = replace(settings, model=replace(settings.model, arch=arch, weights=weights))
    try:
        backbone = load_backbone(settings.model, settings.data, seed=settings.seed)
    except HeadstartError as error:
        return Candidate(arch, weights, reason=str(error))
    data, units = _labelled(manifest, encode_unaugmented(settings, manifest, backbone), settings.seed)
    return Candidate(
        arch,
        weights,
        cross_validate(data, unit_folds(data.labels, units, settings.seed), units),
        _images_per_second(backbone, settings.features.precision),
        sum(tensor.nbytes for tensor in backbone.network.state_dict().values()) / 1e6,
        backbone.embedding_dim,
        units=units,
    )


def _labelled(manifest: Manifest, features: dict[str, Array], seed: int) -> tuple[Labelled, Array]:
    """Returns at most MOST_IMAGES of the images of all splits, and the unit of each."""
    labels = np.concatenate([np.array(split.labels) for split in manifest.splits.values()])
    units = np.concatenate([manifest.units[name] for name in manifest.splits])
    matrix = np.concatenate([np.asarray(features[name], np.float32) for name in manifest.splits])
    chosen = np.sort(np.random.default_rng(seed).permutation(len(labels))[:MOST_IMAGES])
    return Labelled(matrix, labels, len(manifest.classes))[chosen], units[chosen]


def _images_per_second(backbone: Backbone, precision: str) -> float:
    """Measures the speed of the backbone alone, uncompiled."""
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


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Sorts by accuracy, those that could not be loaded last; with p-values against the first."""
    failed = [candidate for candidate in candidates if candidate.reason is not None]
    loaded = [candidate for candidate in candidates if candidate.reason is None]
    loaded.sort(key=lambda candidate: -candidate.accuracy)
    p_values = [mcnemar(loaded[0].correct[loaded[0].head], c.correct[c.head], c.units) for c in loaded[1:]]
    return [*loaded[:1], *(replace(c, p_value=p) for c, p in zip(loaded[1:], holm(p_values), strict=True)), *failed]


def equals_of_first(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Returns those of the `ranked` candidates that a paired test cannot tell from the first."""
    return [c for c in candidates[1:] if c.reason is None and c.p_value >= SIGNIFICANT]


def describe(candidates: Sequence[Candidate]) -> str:
    """Returns a table of the ranked candidates, which cannot be told apart, and how to train with the first one."""
    header = ("rank", "backbone", "weights", *(f"{name} (95 %)" for name in COMPARED), "images/s", "MB", "width")
    table = render_table(header, [_cells(rank, candidate) for rank, candidate in enumerate(candidates, 1)])
    failed = [f"{c} could not be compared: {c.reason}" for c in candidates if c.reason]
    best = candidates[0]
    if best.reason is not None:
        return "\n".join(failed)
    images = len(best.correct[best.head])
    lines = [f"accuracy: {FOLDS}-fold cross-validation on the {images} images of train and valid"]
    if equals := equals_of_first(candidates):
        lines.append(f"cannot be told apart from the first (exact McNemar test): {listed(equals)}")
    elif any(candidate.reason is None for candidate in candidates[1:]):
        lines.append("the first is better than the others by more than chance (exact McNemar test)")
    weights = [] if best.weights == DEFAULT else [f"model.weights={best.weights or 'null'}"]
    overrides = " ".join(map(quoted, [f"model.arch={best.arch}", *weights]))
    return "\n".join([table, *failed, *lines, f"to train with the first: {overrides}"])


def _cells(rank: int, candidate: Candidate) -> tuple[str, ...]:
    if candidate.reason is not None:
        return ("-", candidate.arch, candidate.shown_weights, *[""] * (len(COMPARED) + 3))
    scores = ("{:.3f} ({:.3f}–{:.3f})".format(*candidate.scores(name)) for name in COMPARED)
    size = (f"{candidate.megabytes:.1f}", str(candidate.embedding_dim))
    speed = f"{candidate.images_per_second:.0f}"
    return (str(rank), candidate.arch, candidate.shown_weights, *scores, speed, *size)


def write(candidates: Sequence[Candidate], path: Path) -> None:
    """Writes the ranked candidates as the CSV `path`, and as JSON beside it."""
    rows = [_values(candidate) for candidate in candidates]
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, [tuple(row.get(name, "") for name in columns) for row in rows])
    write_json(path.with_suffix(".json"), {"folds": FOLDS, "candidates": rows})


def _values(candidate: Candidate) -> dict[str, str | float]:
    values: dict[str, str | float] = {"backbone": candidate.arch, "weights": candidate.weights or "random"}
    if candidate.reason is not None:
        return values | {"reason": candidate.reason}
    names = ("accuracy", "low", "high")
    values |= {"head": candidate.head, **dict(zip(names, candidate.scores(candidate.head), strict=True))}
    for head in COMPARED:
        values |= zip((f"{head}_{name}" for name in names), candidate.scores(head), strict=True)
    return values | {
        "p_value": candidate.p_value,
        "images_per_second": round(candidate.images_per_second, 1),
        "megabytes": round(candidate.megabytes, 1),
        "embedding_dim": candidate.embedding_dim,
    }
