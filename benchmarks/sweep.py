"""A sweep of twenty trials over learning rate and dropout, starting with empty caches; then again with features stored.

python benchmarks/sweep.py DATA
"""

import tempfile
from pathlib import Path

from common import (
    data_folder,
    empty_caches,
    inspected,
    plain_run_seconds,
    resnet50,
    run,
    save,
    seconds_of_passes,
    seconds_of_steps,
    training,
)

from headstart.data.preprocessing import Preprocessing
from headstart.features.encoder import Encoder
from headstart.features.source import FEW_VIEWS

RATES = "1e-2,3e-3,1e-3,3e-4,1e-4"
DROPOUTS = "0.2,0.3,0.4,0.5"


def main(data: Path) -> None:
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        swept = ["-m", f"model.lr={RATES}", f"model.dropout={DROPOUTS}"]
        seconds, _ = run(*training(data, folder), *swept, **environment)
        warm, _ = run(*training(data, f"{folder}/again"), *swept, **environment)
        trials = len({path.resolve() for path in Path(folder).glob("sweep/*/trial.json")})
    plain = 20 * plain_run_seconds(data)
    # What is left if everything else took no time.
    backbone, manifest = resnet50(Preprocessing(256, 224)), inspected(data).manifest
    precision = Encoder(backbone, precision="auto", compile=False).precision
    steps = trials * seconds_of_steps(backbone.embedding_dim, len(manifest.splits["train"]), len(manifest.classes))
    imports, _ = run("-c", "import torch, torchvision", **environment)
    limits = {"ours": seconds_of_passes(data, precision, FEW_VIEWS) + steps, "warm": imports + steps}
    save(
        "sweep",
        trials=trials,
        seconds={"plain": plain, "ours": seconds, "warm": warm},
        limits=limits,
        plain_is="extrapolated from two timed epochs",
        ratio=plain / seconds,
        warm_ratio=plain / warm,
        fraction_of_limit=limits["ours"] / seconds,
        warm_fraction_of_limit=limits["warm"] / warm,
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
