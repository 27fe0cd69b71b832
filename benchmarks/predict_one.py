"""Predicting the class of one image, timed as a whole process, compared with importing torch and torchvision.

python benchmarks/predict_one.py DATA
"""

import statistics
import tempfile
from pathlib import Path

from common import ROOT, brief_run, data_folder, empty_caches, run, save

REPEATS = 5


def main(data: Path) -> None:
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        checkpoint = brief_run(data, folder, environment, "features.compile=false")
        image = min(data.glob("*/*.jpg"))
        command = [str(ROOT / "predict.py"), f"ckpt_path={checkpoint}", f"source={image}"]
        ours, imports = [], []
        for _ in range(REPEATS):
            ours.append(run(*command, **environment)[0])
            imports.append(run("-c", "import torch, torchvision", **environment)[0])
    seconds = {"ours": statistics.median(ours), "imports": statistics.median(imports)}
    save("predict_one", seconds=seconds, ratio=seconds["ours"] / seconds["imports"])


if __name__ == "__main__":
    main(data_folder(__doc__))
