"""Images to look at, in which order and why, and what was decided about them: of a run, those that may be wrong."""

import csv
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.data.corrections import (
    ADD,
    KEEP,
    LEAVE_OUT,
    RELABEL,
    Correction,
    read_corrections,
    write_corrections,
)
from headstart.data.manifest import Manifest
from headstart.data.preprocessing import Array
from headstart.errors import HeadstartError
from headstart.evaluation.probes import unit_rows
from headstart.files import exclusively, read_json
from headstart.run_folder import RunFolder

# Predictions that contradict the label with at least this probability are confident mistakes.
CONFIDENT = 0.9
# Images of each kind, and similar images of each class.
MOST, SIMILAR = 200, 5
UNDO = "undo"
# The label of images that have none.
UNKNOWN = -1


@dataclass(frozen=True)
class Item:
    """One image to look at: its number among all images, why, and the class that may be right, or ""."""

    index: int
    reasons: tuple[str, ...]
    suggested: str


class Queue:
    """Images to look at, and the decisions about them, each of which is written at once.

    `actions` are what is decided here: corrections with other actions stay as they are.

    Args:
        run: what the decisions are from.
        manifest: all images that are shown, with the corrections that there are.
        features: those (N, d) of each split, by which images are similar; None: they are not known.
        file: the corrections that decisions are written to.
    """

    actions: tuple[str, ...]

    def __init__(self, run: RunFolder, manifest: Manifest, features: Mapping[str, Array] | None, file: Path) -> None:
        self.manifest, self.file, self._run = manifest, file, run
        samples = [
            (path, name, label, content)
            for name, split in manifest.splits.items()
            for path, label, content in zip(split.paths, split.labels, split.contents, strict=True)
        ]
        self.paths = [path for path, *_ in samples]
        self._splits, self._contents = [split for _, split, *_ in samples], [content for *_, content in samples]
        self._labels = np.array([label for _, _, label, _ in samples])
        self._directions: Array | None = None
        if features is not None:
            self._directions = unit_rows(
                np.concatenate([np.asarray(features[name], np.float32) for name in manifest.splits])
            )
        self._turn = threading.Lock()
        with exclusively(file):
            self._decided, _ = self._read()
        self.items: list[Item] = []

    def state(self) -> dict[str, Any]:
        """Returns what the page shows: the classes, and each item with what was decided about it."""
        return {
            "classes": self.manifest.classes,
            "file": str(self.file),
            "actions": self.actions,
            "items": [
                {
                    "index": item.index,
                    "path": self.paths[item.index].encode("utf-8", "replace").decode(),
                    "split": self._splits[item.index],
                    "label": self._label_of(item.index),
                    "suggested": item.suggested,
                    "reasons": item.reasons,
                    "decision": self._decision(item.index),
                }
                for item in self.items
            ],
        }

    def image(self, index: int) -> Image.Image | None:
        """Returns the image; None: it has changed, or is gone."""
        return self.manifest.read(self.paths[index], self.manifest.depth)

    def similar(self, index: int, name: str) -> list[int]:
        """Returns the images of the class `name` that are most similar to an image."""
        if self._directions is None or name not in self.manifest.classes:
            return []
        own = np.flatnonzero(self._labels == self.manifest.classes.index(name))
        own = own[own != index]
        by_similarity = np.argsort(-(self._directions[own] @ self._directions[index]), kind="stable")
        return [int(other) for other in own[by_similarity[:SIMILAR]]]

    def decide(self, index: int, action: str, label: str = "") -> dict[str, str] | None:
        """Writes what is to be done with an image; "undo" removes an earlier decision. Returns the decision.

        Raises:
            HeadstartError: there is no such image, action or class.
            OSError: it could not be written, and nothing has changed.
        """
        if not 0 <= index < len(self.paths) or action not in (*self.actions, UNDO):
            raise HeadstartError(f"image {index} and action {action} are not known")
        if action in (RELABEL, ADD) and label not in self.manifest.classes:
            raise HeadstartError(f"'{label}' is no class")
        sha256, when = self._contents[index], datetime.now(UTC).isoformat(timespec="seconds")
        of_label = label if action in (RELABEL, ADD) else ""
        # Other reviews may write the same file; another tab of this one is another thread.
        with self._turn, exclusively(self.file):
            decided, others = self._read()
            if action == UNDO:
                decided.pop(sha256, None)
            else:
                path = self._written_path(index)
                decided[sha256] = Correction(path, sha256, action, of_label, when, self._run.path.name)
            write_corrections(self.file, [*others, *decided.values()])
            self._decided = decided
        return self._decision(index)

    def _written_path(self, index: int) -> str:
        """The path of an image in a correction."""
        return self.paths[index]

    def _read(self) -> tuple[dict[str, Correction], list[Correction]]:
        """Reads the file: the decisions by the content that each belongs to, and corrections with other actions."""
        rows = read_corrections(self.file) if self.file.exists() else []
        by_path = {self._written_path(index): content for index, content in enumerate(self._contents)}
        decided = (row for row in rows if row.action in self.actions)
        own = (row._replace(sha256=row.sha256 or by_path.get(row.path, "")) for row in decided)
        # What belongs to a path that is not shown stays as it is.
        of_content = {row.sha256 or f"of {row.path}": row for row in own}
        return of_content, [row for row in rows if row.action not in self.actions]

    def _decision(self, index: int) -> dict[str, str] | None:
        correction = self._decided.get(self._contents[index])
        return None if correction is None else {"action": correction.action, "label": correction.label}

    def _label_of(self, index: int) -> str:
        label = int(self._labels[index])
        return "" if label == UNKNOWN else self.manifest.classes[label]


class Review(Queue):
    """The images of a run whose label may be wrong, or that the audit names."""

    actions = (RELABEL, KEEP, LEAVE_OUT)

    def __init__(self, run: RunFolder, manifest: Manifest, features: Mapping[str, Array] | None, file: Path) -> None:
        super().__init__(run, manifest, features, file)
        self.items = self._items()

    def _items(self) -> list[Item]:
        """The images by their first reason, in the order of the kinds."""
        numbers = {path: index for index, path in enumerate(self.paths)}
        reasons: dict[int, list[str]] = {}
        suggested: dict[int, str] = {}
        copies, others = self._findings()
        for kind in (self._label_issues(), copies, self._unusual(), self._mistakes(), others):
            for path, reason, name in kind:
                if (index := numbers.get(path)) is None:
                    continue
                reasons.setdefault(index, []).append(reason)
                if name and name != self.manifest.classes[self._labels[index]]:
                    suggested.setdefault(index, name)
        return [Item(index, tuple(dict.fromkeys(of)), suggested.get(index, "")) for index, of in reasons.items()]

    def _label_issues(self) -> Iterator[tuple[str, str, str]]:
        """Yields path, reason and suggested class of the labels that the report lists as probably wrong."""
        count = int(self._report.get("label_issues", {}).get("listed", 0))
        for row in _rows(self._run.report / "suspicious.csv")[: min(count, MOST)]:
            yield row["path"], f"the label is probably wrong (rank {row['rank']})", row["suggested"]

    def _mistakes(self) -> Iterator[tuple[str, str, str]]:
        """Yields the predictions that contradict the label with high probability."""
        rows = [row for file in (self._run.test_predictions, self._run.valid_predictions) for row in _rows(file)]
        wrong = [row for row in rows if row["prediction"] != row["label"] and float(row["probability"]) >= CONFIDENT]
        for row in sorted(wrong, key=lambda row: -float(row["probability"]))[:MOST]:
            yield row["path"], f"predicted as {row['prediction']} ({float(row['probability']):.0%})", row["prediction"]

    def _unusual(self) -> Iterator[tuple[str, str, str]]:
        """Yields the scored images that are unlike the training images."""
        for path in self._report.get("unusual", ())[:MOST]:
            yield path, "unusual: unlike the training images", ""

    def _findings(self) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
        """Returns the images that the audit names: near duplicates, and others."""
        found = read_json(self._run.audit)["findings"] if self._run.audit.exists() else []
        named = [(path, str(of["kind"]), "") for of in found for path in of["paths"][:MOST]]
        copies = [item for item in named if item[1].startswith("near duplicates")]
        return copies, [item for item in named if not item[1].startswith("near duplicates")]

    @cached_property
    def _report(self) -> Mapping[str, Any]:
        report = self._run.report / "report.json"
        return read_json(report) if report.exists() else {}


def _rows(path: Path) -> Sequence[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError:
        return []
