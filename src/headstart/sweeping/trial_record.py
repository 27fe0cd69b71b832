"""trial.json: how a trial ended, and what identifies it."""

import functools
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from headstart.files import read_json, sha256_of, write_json
from headstart.metrics import worst_value
from headstart.run_folder import RunFolder, SweepFolder

# Settings that do not change a trial's metrics; its views are averaged if it is tested.
NOT_OF_A_TRIAL = ("run_dir", "sweep", "ckpt_path", "logger", "evaluation")

# Records without it are of version 0.1, whose epochs counted from 0.
FORMAT = ("format", 2)


@dataclass(frozen=True)
class Trial:
    """A completed or failed trial. `values` are those of the swept keys; `reason` says why it failed, None: it did not.

    `metrics` are those of metrics.json: valid/* of the best epoch, best_epoch (counted from 1), epochs.
    """

    folder: str
    values: dict[str, str]
    reason: str | None
    metrics: dict[str, float]
    seconds: float
    config: str
    data: str

    def objective(self, name: str) -> float:
        """The metric `name`; the worst possible value if the trial failed."""
        value = self.metrics.get(name, math.nan)
        return worst_value(name) if self.reason is not None or math.isnan(value) else value


def read_trial(run: RunFolder) -> Trial | None:
    """The trial in its folder; None: it has not ended, or was run by version 0.1 and has to be run again."""
    try:
        values: dict[str, Any] = read_json(run.trial)
        del values[FORMAT[0]]
        return Trial(folder=run.path.name, **values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_trials(sweep: SweepFolder) -> list[Trial]:
    """Those that have ended in a sweep, by name."""
    runs = [RunFolder(path) for path in sorted(sweep.path.iterdir()) if path != sweep.best]
    found = [read_trial(run) for run in runs if not run.path.is_symlink()]
    return [trial for trial in found if trial is not None]


def write_trial(run: RunFolder, trial: Trial) -> None:
    """Writes `trial` into its folder."""
    values = {key: value for key, value in asdict(trial).items() if key != "folder"}
    write_json(run.trial, dict([FORMAT]) | values)


def config_sha256(config: DictConfig) -> str:
    """Of all settings that a trial's metrics depend on, and of the weights file that they name."""
    # The run's folder occurs in other settings too.
    values = OmegaConf.to_container(OmegaConf.merge(config, {"run_dir": ""}), resolve=True)
    assert isinstance(values, dict)
    kept = {key: value for key, value in values.items() if key not in NOT_OF_A_TRIAL}
    weights = Path(str(config.model.weights)).expanduser()
    if weights.is_file():
        status = weights.stat()
        kept["weights"] = _file_sha256(weights.resolve(), status.st_size, status.st_mtime_ns)
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


@functools.cache
def _file_sha256(path: Path, size: int, changed: int) -> str:
    """Read once per process, as long as the file does not change."""
    return sha256_of(path)
