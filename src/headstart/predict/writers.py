"""Predictions as a table on the terminal, as CSV and as JSON lines."""

import csv
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from headstart.files import replacing
from headstart.predict.predictor import Prediction


class TableWriter:
    """Prints a line a picture, as they come: path, then classes with their probabilities."""

    def __init__(self, paths: list[Path], classes: tuple[str, ...]) -> None:
        self._path_width = max(len(str(path)) for path in paths)
        self._class_width = max(map(len, classes))

    def write(self, prediction: Prediction) -> None:
        if prediction.error is not None:
            print(f"{prediction.path!s:<{self._path_width}}  error: {prediction.error}")
            return
        cells = [
            f"{name:<{self._class_width}} {probability:6.1%}"
            for name, probability in zip(prediction.classes, prediction.probabilities, strict=True)
        ]
        print(f"{prediction.path!s:<{self._path_width}}  {'  '.join(cells)}")


class FileWriter:
    """Writes predictions.csv (path,error,label_1,prob_1,…) and predictions.jsonl, as they come."""

    def __init__(self, csv_file: TextIO, json_file: TextIO, topk: int) -> None:
        ranks = range(1, topk + 1)
        columns = ["path", "error", *(f"{kind}_{rank}" for rank in ranks for kind in ("label", "prob"))]
        self._csv = csv.DictWriter(csv_file, columns, lineterminator="\n")
        self._csv.writeheader()
        self._json = json_file

    def write(self, prediction: Prediction) -> None:
        ranked = list(zip(prediction.classes, prediction.probabilities, strict=True))
        row: dict[str, Any] = {"path": str(prediction.path), "error": prediction.error}
        for rank, (name, probability) in enumerate(ranked, start=1):
            row |= {f"label_{rank}": name, f"prob_{rank}": f"{probability:.6g}"}
        self._csv.writerow(row)
        line = {
            "path": str(prediction.path),
            "error": prediction.error,
            "predictions": [{"label": name, "prob": float(f"{p:.6g}")} for name, p in ranked],
        }
        self._json.write(json.dumps(line, ensure_ascii=False) + "\n")


@contextmanager
def open_files(folder: Path, topk: int) -> Iterator[FileWriter]:
    """A FileWriter whose two files appear in `folder` whole, when the block ends without an error."""
    with ExitStack() as stack:
        files = []
        for name in ("predictions.csv", "predictions.jsonl"):
            temporary = stack.enter_context(replacing(folder / name))
            files.append(
                stack.enter_context(temporary.open("w", encoding="utf-8", errors="surrogateescape", newline=""))
            )
        yield FileWriter(files[0], files[1], topk)
