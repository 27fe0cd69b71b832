"""Labels that are probably wrong, by confident learning.

Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", on probabilities by
cross-validation. cleanlab is its authors' implementation, which a test and benchmarks/truth.py compare this one with.
Its imports, pandas and scikit-learn among them, would take longer than the answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from headstart.data.manifest import Manifest
from headstart.evaluation.probes import Array, Labelled, fit_head, in_parts, sample, scores_of

RESAMPLES = 200


@dataclass(frozen=True)
class LabelIssues:
    """Beliefs in the labels of N images: `belief` (N) is the label's probability less the highest other one.

    Below 0, another class is more probable than the label; `suggested` (N) are the classes with the highest other
    probability. `estimate` is how many labels are probably wrong, `low` and `high` are the ends of its 95 % interval.
    `listed` (N) says which: as many, the least believed, but none that is the most probable class.
    """

    belief: Array
    suggested: Array
    listed: Array
    estimate: float
    low: float
    high: float

    @property
    def order(self) -> Array:
        """The indices (N) of the images: those listed first, and of these the least believed label."""
        ranked: Array = np.lexsort((self.belief, ~self.listed))
        return ranked

    @property
    def count(self) -> int:
        """The number of labels listed."""
        return int(self.listed.sum())


def find_label_issues(data: Sequence[Labelled], units: Array, seed: int) -> LabelIssues:
    """Judges the label of each image of `data`, in turn, by logistic regression on images of other `units` (N)."""
    labels = np.concatenate([part.labels for part in data])
    probs = _probabilities(data, labels, units, seed)
    confident = confident_classes(labels, probs)
    places = np.arange(len(labels))
    others = probs.copy()
    others[places, labels] = -1
    joint = confident_joint(labels, confident, probs.shape[1])
    belief, estimate = probs[places, labels] - others.max(1), float(joint.sum() - joint.trace())
    ranks = np.argsort(np.argsort(belief, kind="stable"), kind="stable")
    listed = (ranks < round(estimate)) & (belief < 0)
    low, high = _interval(labels, confident, units, seed)
    return LabelIssues(belief, others.argmax(1), listed, estimate, low, high)


def _probabilities(data: Sequence[Labelled], labels: Array, units: Array, seed: int) -> Array:
    """Returns the probabilities (N, classes) of each image by a fit without its unit.

    Of many images, a sample is fitted to, and its images get theirs by cross-validation.
    """
    # With the other images of the units in the sample.
    is_known = np.isin(units, units[sample(len(labels), seed)])
    ends = np.cumsum([len(part) for part in data])[:-1]
    rows = [np.flatnonzero(own) for own in np.split(is_known, ends)]
    features = np.concatenate([part.read(own).features for part, own in zip(data, rows, strict=True)])
    head, scores = fit_head("logistic", Labelled(features, labels[is_known], data[0].classes), units[is_known])
    of_all = np.empty((len(labels), data[0].classes), np.float32)
    of_all[is_known] = scores
    if not is_known.all():
        probe = scores_of(head)
        of_others = [probe(features) for part in data for features in in_parts(part.features)]
        of_all[~is_known] = np.concatenate(of_others)[~is_known]
    exponentials = np.exp(of_all - of_all.max(1, keepdims=True))
    probs: Array = exponentials / exponentials.sum(1, keepdims=True)
    return probs


def confident_classes(labels: Array, probs: Array) -> Array:
    """Returns the class (N) that each image is confidently counted among, or -1.

    It is the most probable of the classes whose probability is at least its mean over the images with that label.
    """
    counts = np.bincount(labels, minlength=probs.shape[1])
    sums = np.bincount(labels, weights=probs[np.arange(len(labels)), labels], minlength=probs.shape[1])
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    # As cleanlab has it: rounding must not keep an image from its class.
    certain = np.where(probs >= thresholds - 1e-6, probs, -1)
    classes: Array = np.where(certain.max(1) >= 0, certain.argmax(1), -1)
    return classes


def confident_joint(labels: Array, confident: Array, classes: int) -> Array:
    """Returns how many images (classes, classes) of each label, in rows, are of each class in truth, by estimate."""
    known = confident >= 0
    joint = np.bincount(labels[known] * classes + confident[known], minlength=classes**2).reshape(classes, classes)
    joint[np.diag_indices(classes)] = np.maximum(joint.diagonal(), 1)
    sizes = np.bincount(labels, minlength=classes)
    scaled: Array = joint * (sizes / joint.sum(1))[:, None]
    return scaled


def _interval(labels: Array, confident: Array, units: Array, seed: int) -> tuple[float, float]:
    """Returns the 95 % interval of the estimate, by drawing units with their images again (cluster bootstrap)."""
    generator = np.random.default_rng(seed)
    _, which = np.unique(units, return_inverse=True)
    count, classes = which.max() + 1, labels.max() + 1
    estimates = []
    for _ in range(RESAMPLES):
        weights = np.bincount(generator.integers(0, count, count), minlength=count)[which]
        sizes = np.bincount(labels, weights, classes)
        known = np.bincount(labels, weights * (confident >= 0), classes)
        other = np.bincount(labels, weights * ((confident >= 0) & (confident != labels)), classes)
        estimates.append((sizes * other / np.maximum(known, 1)).sum())
    low, high = np.quantile(estimates, (0.025, 0.975))
    return float(low), float(high)


def suspicious(manifest: Manifest, issues: LabelIssues) -> Iterator[tuple[str, str, str, str, float]]:
    """Yields path, split, label, suggested class and belief of each image, in the order of `issues`."""
    samples = [
        (path, name, manifest.classes[label])
        for name, split in manifest.splits.items()
        for path, label in zip(split.paths, split.labels, strict=True)
    ]
    for index in issues.order.tolist():
        yield *samples[index], manifest.classes[issues.suggested[index]], float(issues.belief[index])
