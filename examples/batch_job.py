"""Sorts images into folders by their predicted class: python batch_job.py RUN SOURCE TARGET."""

import os
import shutil
import sys
from pathlib import Path

import headstart
from headstart.files import claim
from headstart.text import as_file_name


def sort_images(run: str, source: str, target: str) -> None:
    """Copies the images of `source` into target/sure/<class> and, if it is doubtful, target/doubtful/<class>.

    There they are in the same folders as in `source`, so that equal names do not meet. The folder `target` must be new,
    empty, or from an earlier call; predictions of a folder that it is in leave it out.
    """
    predictions = headstart.load(run).predict(source, min_confidence=0.6)
    claim(Path(target), "sorted images")
    common = os.path.commonpath([prediction.path.absolute().parent for prediction in predictions])
    for prediction in predictions:
        if prediction.error is not None:
            print(f"skipped: {prediction.error}", file=sys.stderr)
            continue
        # A label may be any text, even "../ant".
        folder = Path(target, "doubtful" if prediction.doubt else "sure", as_file_name(str(prediction.label)))
        place = folder / prediction.path.absolute().relative_to(common)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(prediction.path, place)


if __name__ == "__main__":
    sort_images(*sys.argv[1:])
