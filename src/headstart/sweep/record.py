"""trial.json: that a trial is over, what it gave, and what it was made of."""

import functools
import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from headstart.files import sha256_of, write_json

RECORD = "trial.json"
# Of a configuration: what does not change a trial's figures.
NOT_OF_A_TRIAL = ("run_dir", "sweep", "ckpt_path", "logger")


@dataclass(frozen=True)
class Trial:
    """A trial that is over. `values` are of the swept keys; `reason` says why it failed, None: it has not.

    `metrics` are those of metrics.json: valid/{loss,acc,f1} of the best epoch, best_epoch (counted from 0), epochs.
    """

    folder: str
    values: dict[str, str]
    reason: str | None
    metrics: dict[str, float]
    seconds: float
    config: str
    data: str

    def objective(self, name: str) -> float:
        """The figure `name`; of a failed trial the worst there is."""
        value = self.metrics.get(name, math.nan)
        return worst(name) if self.reason is not None or math.isnan(value) else value


def worst(objective: str) -> float:
    """What no trial can be worse than."""
    return -math.inf if is_maximised(objective) else math.inf


def is_maximised(objective: str) -> bool:
    """All but losses."""
    return not objective.endswith("loss")


def read_trial(folder: Path) -> Trial | None:
    """The trial in its folder; None: it is not over."""
    try:
        values: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Trial(folder=folder.name, **values)
    except (OSError, ValueError, TypeError):
        return None


def read_trials(folder: Path) -> list[Trial]:
    """Those that are over in the folder of a sweep, by name."""
    found = [read_trial(path.parent) for path in sorted(folder.glob(f"*/{RECORD}"))]
    # The best one is there twice: `best` points at it.
    return [trial for trial in found if trial is not None and not (folder / trial.folder).is_symlink()]


def write_trial(folder: Path, trial: Trial) -> None:
    """Writes `trial` into its folder, whole or not at all."""
    write_json(folder / RECORD, {key: value for key, value in asdict(trial).items() if key != "folder"})


def config_sha256(config: DictConfig) -> str:
    """Of all settings that a trial's figures depend on, and of the file of weights that they name."""
    # The place of the run is in other settings too.
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
    """Read once by a process, as long as the file stays what it is."""
    return sha256_of(path)
