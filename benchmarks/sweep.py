"""A sweep of twenty trials over learning rate and dropout, starting with empty caches; then again with features stored.

python benchmarks/sweep.py DATA
"""

import tempfile
from pathlib import Path

from common import data_folder, empty_caches, plain_run_seconds, run, save, training

RATES = "1e-2,3e-3,1e-3,3e-4,1e-4"
DROPOUTS = "0.2,0.3,0.4,0.5"


def main(data: Path) -> None:
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        swept = ["-m", f"model.lr={RATES}", f"model.dropout={DROPOUTS}"]
        seconds, _ = run(*training(data, folder), *swept, **environment)
        warm, _ = run(*training(data, f"{folder}/again"), *swept, **environment)
        trials = len({path.resolve() for path in Path(folder).glob("sweep/*/trial.json")})
    plain = 20 * plain_run_seconds(data)
    save(
        "sweep",
        trials=trials,
        seconds={"plain": plain, "ours": seconds, "warm": warm},
        plain_is="extrapolated from two timed epochs",
        ratio=plain / seconds,
        warm_ratio=plain / warm,
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
