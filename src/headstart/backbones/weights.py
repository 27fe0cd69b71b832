"""How the weights in a file get into a network."""

import os
from pathlib import Path

from torch import Tensor, nn

from headstart.backbones.safe_load import read_tensors
from headstart.errors import HeadstartError


def file_of(weights: str) -> Path | None:
    """The file that `weights` names; None: it is a name of published weights.

    Raises:
        HeadstartError: it looks like a file, which does not exist.
    """
    path = Path(weights).expanduser()
    if path.exists():
        return path
    if path.suffix or os.sep in weights:
        raise HeadstartError(f"the weights file {weights} does not exist: give another one with model.weights=FILE")
    return None


def load_weights(module: nn.Module, path: Path, what: str, *, without: str) -> None:
    """Loads the state_dict in the file `path`, except keys that start with `without`, into `module`.

    Raises:
        HeadstartError: the file is not a state_dict; or, beginning with `what`, which tensors do not fit.
    """
    module.load_state_dict(fitting_state(module, path, what, without=without), strict=False)


def fitting_state(module: nn.Module, path: Path, what: str, *, without: str) -> dict[str, Tensor]:
    """The state_dict in the file `path`, except keys that start with `without`; `module` may be on the meta device.

    Raises:
        HeadstartError: as `load_weights`.
    """
    state = {key: value for key, value in read_tensors(path).items() if not key.startswith(without)}
    expected = module.state_dict()
    # Files from before PyTorch 0.4.1 lack BatchNorm's counters, which a frozen one never reads.
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    extra = [key for key in state if key not in expected]
    if missing or extra:
        parts = [
            f"{len(keys)} {kind} tensors, such as {keys[0]}"
            for keys, kind in ((missing, "missing"), (extra, "unexpected"))
            if keys
        ]
        raise HeadstartError(f"{what}: {'; '.join(parts)}")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            shapes = f"{tuple(value.shape)} instead of {tuple(expected[key].shape)}"
            raise HeadstartError(f"{what}: {key} has shape {shapes}")
    return state
