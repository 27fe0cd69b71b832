"""Overrides key=value: how Hydra parses and writes them, which of them a sweep varies, and the names of its trials."""

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import HydraException
from omegaconf import OmegaConf

from headstart.config.train import literal_text, plain_text

# One override.


def key_of(override: str) -> str:
    """Returns "model.lr" of "+model.lr=1e-3"."""
    return override.lstrip("+~").partition("=")[0]


def value_of(override: str) -> str:
    """Returns the value of an override, as it was before `with_plain_paths` or the user quoted it."""
    text = override.partition("=")[2]
    if text[:1] in ("'", '"') and (parsed := parsed_override(f"key={text}")) is not None:
        text = str(parsed.value())
    return plain_text(text)


def given(arguments: Iterable[str], key: str) -> list[str]:
    """Returns the values that `arguments` set `key` to, "" where they delete it."""
    return [value_of(argument) for argument in arguments if key_of(argument) == key]


def parsed_override(argument: str) -> Override | None:
    """Returns the override as Hydra parses it; None for a flag, or for what Hydra cannot parse."""
    try:
        return _parser().parse_override(argument)
    except HydraException:
        return None


def written_as(value: Any) -> str:
    """Returns how a value is written, interpolations included: in quotes, if Hydra would read it as something else."""
    if isinstance(value, list):
        return f"[{','.join(map(written_as, value))}]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    parsed = parsed_override(f"key={value}")
    if not isinstance(value, str) or (parsed and not parsed.is_sweep_override() and parsed.value() == value):
        return str(value)
    return str(QuotedString(value, Quote.single).with_quotes())


def literal(text: str) -> str:
    """Returns how a value is written that is exactly this text."""
    return written_as(literal_text(text))


@functools.cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


# Sweeps and trials. The name of a sweep depends only on the command line, so that a rerun finds it.

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


def swept_keys(arguments: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns the keys given several values ("model.lr" of model.lr=1e-2,1e-3), and those given one."""
    over: list[str] = []
    fixed: list[str] = []
    for override in _parsed(arguments):
        (over if override.is_sweep_override() else fixed).append(str(override.key_or_group))
    return over, fixed


def swept_values(overrides: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """Returns the values that a trial's overrides give to `keys`, in their order."""
    given = {str(o.key_or_group): str(o.get_value_element_as_str()) for o in _parsed(overrides)}
    return {key: given[key] for key in keys if key in given}


def values_of_trial(over: Iterable[str], fixed: Iterable[str]) -> dict[str, str]:
    """Returns the current trial's values of all keys that are swept."""
    return swept_values(as_written(HydraConfig.get().overrides.task), all_swept(over, fixed))


def as_written(overrides: Any) -> list[str]:
    """Returns the overrides that Hydra received, before anything in them is resolved."""
    written = OmegaConf.to_container(overrides, resolve=False)
    assert isinstance(written, list)
    return [str(override) for override in written]


def all_swept(over: Iterable[str], fixed: Iterable[str]) -> list[str]:
    """Returns the keys `over` of the command line, and those of the sweeper's search space that are not `fixed`."""
    own = [key.lstrip("+~") for key in HydraConfig.get().sweeper.get("params") or {}]
    return list(dict.fromkeys([*over, *(key for key in own if key not in set(fixed))]))


def sweep_name(arguments: Iterable[str]) -> str:
    """Returns a sweep's name, which does not depend on the order of its arguments: "sweep-dropout-lr-1f2e3d4c"."""
    arguments = [argument for argument in arguments if not argument.lstrip("+").startswith(NOT_OF_A_SWEEP)]
    words = sorted(key.rpartition(".")[2] for key in swept_keys(arguments)[0])
    words += [str(override.value()) for override in _parsed(arguments) if override.key_or_group == "sweep"]
    readable = UNSAFE.sub("_", "-".join(["sweep", *words]))[:LONGEST]
    return f"{readable}-{_digest(sorted(arguments))}"


def trial_name(values: Mapping[str, str]) -> str:
    """Returns a trial's name: "model.dropout=0.2,model.lr=0.01", with a hash if that is not everything."""
    full = ",".join(f"{key}={values[key]}" for key in sorted(values)) or "only"
    short = ",".join(f"{key}={shortened(values[key])}" for key in sorted(values)) or "only"
    safe = UNSAFE.sub("_", short)
    return full if safe == full and len(full) <= LONGEST else f"{safe[:LONGEST]}-{_digest([full])}"


def shortened(value: str) -> str:
    """Returns a number with many digits to four significant ones, and another text as it is."""
    return f"{float(value):.4g}" if LONG_NUMBER.fullmatch(value) else value


def _parsed(arguments: Iterable[str]) -> list[Override]:
    """Returns the arguments that are neither flags nor typos, which Hydra will report."""
    return [override for argument in arguments if (override := parsed_override(argument)) is not None]


def _digest(parts: list[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:8]
