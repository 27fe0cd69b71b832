"""How many views of each training image pay: the best valid loss, and accuracies, by features.views.

python benchmarks/views.py WEIGHTS DATA...: MobileNetV2's weights, and flat class folders. To these come digits from
scikit-learn and generated shapes. 40 % of each class are for training, 30 % for validation, and 30 % for testing.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import save
from truth import generated

from headstart import train
from headstart.features import source

# "auto" has one unaugmented view, and one augmented view fewer than this.
FEW = (1, 2, 3, 4, 6, 8)
EVERY_EPOCH = "null"
SEEDS = 5
OPTIONS = ("data.split.train=0.4", "data.split.valid=0.3", "model.arch=mobilenet_v2", "report=none", "data.seed=0")


def figures(root: Path, weights: Path, size: tuple[str, ...]) -> dict[str, Any]:
    """The means over the seeds and their standard errors, by the number of views."""
    results = {}
    for views in (*FEW, EVERY_EPOCH):
        source.FEW_VIEWS = views if isinstance(views, int) else source.FEW_VIEWS
        setting = f"features.views={'auto' if isinstance(views, int) else views}"
        rows = [
            train(*OPTIONS, *size, setting, f"model.weights={weights}", f"seed={seed}", data=root).metrics
            for seed in range(SEEDS)
        ]
        names = ("valid/loss", "valid/acc", "test/loss", "test/acc")
        values = np.array([[row[name] for name in names] for row in rows])
        error = values.std(0, ddof=1) / len(rows) ** 0.5
        results[str(views)] = {
            name: [round(float(mean), 4), round(float(of_mean), 4)]
            for name, mean, of_mean in zip(names, values.mean(0), error, strict=True)
        }
        print(root.name, views, results[str(views)], flush=True)
    return results


def main(weights: Path, roots: list[Path]) -> None:
    """Trains with each number of views on each set, in a temporary folder."""
    weights, roots = weights.resolve(), [root.resolve() for root in roots]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        # The training images of a set that is already split.
        sets = [(root.parent.name if root.name == "train" else root.name, root, ()) for root in roots]
        for name, root, side in generated(Path("drawn").resolve()):
            sets.append((name, root, (f"data.image_size={side}", f"data.resize_size={side}")))
        results = {name: figures(root, weights, size) for name, root, size in sets}
    save("views", seeds=SEEDS, sets=results)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("data", type=Path, nargs="+")
    options = parser.parse_args()
    main(options.weights, options.data)
