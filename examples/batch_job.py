"""Sorts images into folders by their predicted class: python batch_job.py RUN SOURCE TARGET."""

import shutil
import sys
from pathlib import Path

import headstart


def sort_images(run: str, source: str, target: str) -> None:
    """Copies each image of `source` into target/<class>, doubtful ones into target/doubtful."""
    for prediction in headstart.load(run).predict(source, min_confidence=0.6):
        if prediction.error is not None:
            print(f"skipped: {prediction.error}", file=sys.stderr)
            continue
        folder = Path(target) / ("doubtful" if prediction.doubt else str(prediction.label))
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(prediction.path, folder / prediction.path.name)


if __name__ == "__main__":
    sort_images(*sys.argv[1:])
