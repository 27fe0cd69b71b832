"""Predicting the classes of 1,000 images, timed as a whole process, compared with a loop over single images.

python benchmarks/predict_1000.py DATA
"""

import statistics
import tempfile
from pathlib import Path

import torch
from common import ROOT, brief_run, data_folder, empty_caches, plain_loop, run, save

COUNT = 1000


def main(data: Path) -> None:
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        # As on any machine that has trained with the backbone before, it is compiled. On a GPU it is not by default.
        compiled = "auto" if torch.cuda.is_available() else "true"
        checkpoint = brief_run(data, folder, environment, f"features.compile={compiled}")
        images = Path(folder, "images")
        images.mkdir()
        sources = (sorted(data.glob("*/*.jpg")) * 2)[:COUNT]
        for number, source in enumerate(sources):
            (images / f"{number:04}.jpg").symlink_to(source)
        command = [str(ROOT / "predict.py"), f"ckpt_path={checkpoint}", f"source={images}"]
        plain, ours = [], []
        for _ in range(3):
            plain.append(plain_loop(data, "--predict", str(COUNT))["wall"])
            ours.append(run(*command, **environment)[0])
    seconds = {"plain": statistics.median(plain), "ours": statistics.median(ours)}
    save("predict_1000", seconds=seconds, ratio=seconds["plain"] / seconds["ours"])


if __name__ == "__main__":
    main(data_folder(__doc__))
