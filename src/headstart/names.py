"""What a sweep and its trials are called: by the command line alone, so that the same command finds them again."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf

# How much is tried, and where it runs or is kept, does not make it another sweep.
NOT_OF_A_SWEEP = (
    *("-", "hydra/launcher", "hydra.launcher.", "hydra.sweeper.n_trials", "hydra.sweeper.n_jobs"),
    *("hydra.sweep.dir", "hydra.mode", "sweep.over", "sweep.fixed"),
)
# Of a folder's name; file systems take 255 bytes.
LONGEST = 100
LONG_NUMBER = re.compile(r"-?\d*\.\d{5,}(e[+-]?\d+)?|-?\d*\.\d+e[+-]?\d+")
UNSAFE = re.compile(r"[^\w.,=+-]+", re.ASCII)


def swept_keys(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """The keys that a command line gives several values ("model.lr" of model.lr=1e-2,1e-3), and those it gives one."""
    over: list[str] = []
    fixed: list[str] = []
    for override in _parsed(arguments):
        (over if override.is_sweep_override() else fixed).append(str(override.key_or_group))
    return over, fixed


def swept_values(overrides: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """What a trial's overrides say for each of `keys`, in their order."""
    given = {str(o.key_or_group): str(o.get_value_element_as_str()) for o in _parsed(overrides)}
    return {key: given[key] for key in keys if key in given}


def values_of_trial(over: Iterable[str], fixed: Iterable[str]) -> dict[str, str]:
    """What this trial has for the keys `over` of the command line, and for the sweeper's own, less those `fixed`."""
    return swept_values(as_written(HydraConfig.get().overrides.task), all_swept(over, fixed))


def as_written(overrides: Any) -> list[str]:
    """The overrides that Hydra has taken, before anything in them is resolved."""
    written = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(written, list)
    return [str(override) for override in written]


def all_swept(over: Iterable[str], fixed: Iterable[str]) -> list[str]:
    """The keys `over` of the command line, and the sweeper's own, less those `fixed`."""
    own = [key.lstrip("+~") for key in HydraConfig.get().sweeper.get("params") or {}]
    return list(dict.fromkeys([*over, *(key for key in own if key not in set(fixed))]))


def sweep_name(arguments: Iterable[str]) -> str:
    """Of the same command, whatever the order of its arguments: "sweep-dropout-lr-1f2e3d4c"."""
    arguments = [argument for argument in arguments if not argument.lstrip("+").startswith(NOT_OF_A_SWEEP)]
    words = sorted(key.rpartition(".")[2] for key in swept_keys(arguments)[0])
    words += [str(override.value()) for override in _parsed(arguments) if override.key_or_group == "sweep"]
    readable = UNSAFE.sub("_", "-".join(["sweep", *words]))[:LONGEST]
    return f"{readable}-{_digest(sorted(arguments))}"


def trial_name(values: Mapping[str, str]) -> str:
    """Of the swept values: "model.dropout=0.2,model.lr=0.01"; with a hash where that is not all there is to say."""
    full = ",".join(f"{key}={values[key]}" for key in sorted(values)) or "only"
    short = ",".join(f"{key}={shortened(values[key])}" for key in sorted(values)) or "only"
    safe = UNSAFE.sub("_", short)
    return full if safe == full and len(full) <= LONGEST else f"{safe[:LONGEST]}-{_digest([full])}"


def shortened(value: str) -> str:
    """A number of many digits to four of them."""
    return f"{float(value):.4g}" if LONG_NUMBER.fullmatch(value) else value


def _parsed(arguments: Iterable[str]) -> list[Override]:
    parser, parsed = OverridesParser.create(), []
    for argument in arguments:
        try:
            parsed.append(parser.parse_override(argument))
        except HydraException:
            # A flag, or a slip of the pen, which Hydra will name.
            continue
    return parsed


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:8]
