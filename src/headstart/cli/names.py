"""Names of runs, sweeps and trials. Those of sweeps depend only on the command line, so that a rerun finds them."""

import functools
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import ListConfig, OmegaConf

from headstart.config.literal import byte
from headstart.launchers import place_in_job
from headstart.metrics import metric_of

# Arguments that do not make it another sweep: how many trials there are, where they run or are stored, and what is
# done with them in the end.
NOT_OF_A_SWEEP = (
    *("-", "hydra/launcher", "hydra.launcher.", "hydra.sweeper.n_trials", "hydra.sweeper.n_jobs"),
    *("hydra.sweep.dir", "hydra.mode", "sweep.over", "sweep.fixed", "sweep.ensemble"),
)
# Characters in a folder's name; file systems accept 255 bytes.
LONGEST = 100
LONG_NUMBER = re.compile(r"-?\d*\.\d{5,}(e[+-]?\d+)?|-?\d*\.\d+e[+-]?\d+")
UNSAFE = re.compile(r"[^\w.,=+-]+", re.ASCII)


def run_name(root: str, arch: str) -> str:
    """ "zoo10-mobilenet_v2" for ("../images/zoo10/", "mobilenet_v2")."""
    return re.sub(r"[^\w.-]+", "_", f"{Path(root).resolve().name}-{arch}")


def unique_name() -> str:
    """The time and a random suffix."""
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(3)}"


@functools.cache
def shared_name() -> str:
    """A unique name, the same in all processes that torchrun or SLURM started, and however often it is asked for."""
    if place_in_job().world_size == 1:
        return unique_name()
    from headstart.processes import from_first
    from headstart.training.jobs import join

    join()
    return from_first(unique_name())


def swept_keys(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """The keys given several values ("model.lr" of model.lr=1e-2,1e-3), and those given one."""
    over: list[str] = []
    fixed: list[str] = []
    for override in _parsed(arguments):
        (over if override.is_sweep_override() else fixed).append(str(override.key_or_group))
    return over, fixed


def swept_values(overrides: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """The values that a trial's overrides give to `keys`, in their order."""
    given = {str(o.key_or_group): str(o.get_value_element_as_str()) for o in _parsed(overrides)}
    return {key: given[key] for key in keys if key in given}


def values_of_trial(over: Iterable[str], fixed: Iterable[str]) -> dict[str, str]:
    """The current trial's values of all keys that are swept."""
    return swept_values(as_written(HydraConfig.get().overrides.task), all_swept(over, fixed))


def as_written(overrides: Any) -> list[str]:
    """The overrides that Hydra received, before anything in them is resolved."""
    written = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(written, list)
    return [str(override) for override in written]


def all_swept(over: Iterable[str], fixed: Iterable[str]) -> list[str]:
    """The keys `over` of the command line, and those of the sweeper's search space that are not `fixed`."""
    own = [key.lstrip("+~") for key in HydraConfig.get().sweeper.get("params") or {}]
    return list(dict.fromkeys([*over, *(key for key in own if key not in set(fixed))]))


def sweep_name(arguments: Iterable[str]) -> str:
    """Of a sweep, whatever the order of its arguments: "sweep-dropout-lr-1f2e3d4c"."""
    arguments = [argument for argument in arguments if not argument.lstrip("+").startswith(NOT_OF_A_SWEEP)]
    words = sorted(key.rpartition(".")[2] for key in swept_keys(arguments)[0])
    words += [str(override.value()) for override in _parsed(arguments) if override.key_or_group == "sweep"]
    readable = UNSAFE.sub("_", "-".join(["sweep", *words]))[:LONGEST]
    return f"{readable}-{_digest(sorted(arguments))}"


def trial_name(values: Mapping[str, str]) -> str:
    """Of the swept values: "model.dropout=0.2,model.lr=0.01"; with a hash if that is not everything."""
    full = ",".join(f"{key}={values[key]}" for key in sorted(values)) or "only"
    short = ",".join(f"{key}={shortened(values[key])}" for key in sorted(values)) or "only"
    safe = UNSAFE.sub("_", short)
    return full if safe == full and len(full) <= LONGEST else f"{safe[:LONGEST]}-{_digest([full])}"


def shortened(value: str) -> str:
    """A number with many digits, to four significant ones."""
    return f"{float(value):.4g}" if LONG_NUMBER.fullmatch(value) else value


def register_resolvers() -> None:
    """Registers the resolvers that conf/ uses, for a new run."""
    shared_name.cache_clear()

    def trial(over: ListConfig, fixed: ListConfig) -> str:
        return trial_name(values_of_trial(over, fixed))

    resolvers: dict[str, Callable[..., str]] = {
        "run_name": run_name,
        # Launchers pickle the resolvers; a cache made here would not be found again by its name.
        "unique_name": shared_name,
        "trial_name": trial,
        "byte": byte,
        "direction": lambda objective: f"{metric_of(objective).direction}imize",
    }
    for key, resolver in resolvers.items():
        OmegaConf.register_resolver(key, resolver, replace=True)


def _parsed(arguments: Iterable[str]) -> list[Override]:
    parser, parsed = OverridesParser.create(), []
    for argument in arguments:
        try:
            parsed.append(parser.parse_override(argument))
        except HydraException:
            # A flag, or a typo that Hydra will report.
            continue
    return parsed


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape")).hexdigest()[:8]


# Also on import: a process that runs a trial for another one starts no script.
register_resolvers()
