"""What the two scripts share: overrides made ready for Hydra, and errors told in one sentence."""

import io
import os
import re
import secrets
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from headstart.errors import HeadstartError
from headstart.files import RUN_RECORD
from headstart.names import sweep_name, swept_keys, trial_name, values_of_trial
from headstart.settings import unknown_key

# The groups whose entries take arguments of a Lightning class that need not stand in conf/.
OPEN_GROUPS = re.compile(r"(trainer|callbacks|logger)\.")
PROCESS_START = time.time()
# What Hydra itself may make from the configuration. A resumed run repeats what it finds in a folder, maybe another's.
HYDRAS_TARGETS = ["headstart.sweep.events.SweepEvents", "hydra_plugins.*", "optuna.samplers.*", "logging.*"]
# Whose refusals are about the command line, or the machine.
HYDRAS = ("hydra", "hydra_plugins", "optuna", "submitit", "joblib")
PLUGINS = re.compile(r"hydra/(sweeper|launcher)/(optuna|joblib|submitit)")
# Their values may be the paths of files that are there, whatever Hydra's grammar makes of the characters in them.
PATHS = ("ckpt_path", "source", "data.root", "data.archive", "model.weights", "features.dir")
# What there can be in the folder of a run before its first epoch has ended.
BEGINNINGS = re.compile(r"\.hydra|run\.json|audit\.json|config\.yaml|hparams\.yaml|checkpoints|events\..*")


def start(main: Callable[[], Any], schema: type, *, trains: bool) -> None:
    """Runs a script's Hydra main; `schema` holds the keys it knows.

    With `trains`, a command line that names a checkpoint begins with the overrides of the run it came from, and that of
    a sweep gets the sweep's folder. What is wrong with the command line ends as one sentence and status 1.
    """
    tracebacks = bool(os.environ.get("HYDRA_FULL_ERROR"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A file's name need not be valid in any encoding, and is printed all the same.
            stream.reconfigure(errors="backslashreplace")
    # Without it Hydra would print errors, and the advice to set it, by itself.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # Neither the shell nor Hydra reads the ~ of data.root=~/pictures.
    arguments = [re.sub(r"=~(?=/|$)", f"={Path.home()}", argument, count=1) for argument in sys.argv[1:]]
    arguments = [_quoted(argument) for argument in arguments]
    if trains and _is_multirun(arguments):
        arguments += _overrides_of_a_sweep(arguments)
    elif any(_key(argument) == "sweep" for argument in arguments):
        _fail("sweep= chooses the trials of a sweep, and needs -m")
    repeated = _overrides_of_resumed_run(arguments) if trains else []
    sys.argv[1:] = list(_overrides_for_hydra(repeated, arguments))
    _register_resolvers()
    try:
        _refuse_used_run_folder(sys.argv[1:])
        main()
    except HeadstartError as error:
        _fail(str(error))
    except (HydraException, OmegaConfBaseException, OSError) as error:
        if tracebacks:
            raise
        _fail(_sentence(error, schema))
    except (ValueError, RuntimeError, AssertionError, ImportError) as error:
        # Such as Hydra's own, for model=5: the name of a group's option must be text.
        if tracebacks or _origin(error) not in HYDRAS:
            raise
        _fail(" ".join(str(error).split()) or "Hydra, or a part of it, does not take these settings")
    except KeyboardInterrupt:
        sys.exit(130)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Ends the program with one sentence and status 1 where the user's input or machine is at fault."""
    try:
        yield
    except KeyboardInterrupt:
        _discard_begun_run()
        raise
    except (HeadstartError, OSError) as error:
        _discard_begun_run()
        _fail(str(error) if isinstance(error, HeadstartError) else _system_sentence(error))


def is_trial() -> bool:
    """Whether Hydra runs this as one of several."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def _run_name(root: str, arch: str) -> str:
    """ "zoo10-mobilenet_v2" for ("../pictures/zoo10/", "mobilenet_v2")."""
    return re.sub(r"[^\w.-]+", "_", f"{Path(root).resolve().name}-{arch}")


def _unique_name() -> str:
    return f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-{secrets.token_hex(3)}"


def _trial_name(over: ListConfig, fixed: ListConfig) -> str:
    return trial_name(values_of_trial(over, fixed))


def _quoted(argument: str) -> str:
    """`argument` as Hydra reads it, where its value is the path of something there, such as a trial's folder."""
    key, _, value = argument.partition("=")
    if key not in PATHS or value[:1] in ("'", '"') or not re.search(r"[^\w./:-]", value) or not Path(value).exists():
        return argument
    escaped = value.replace('"', '\\"')
    return f'{key}="{escaped}"'


def _is_multirun(arguments: list[str]) -> bool:
    """Whether Hydra is asked for several runs, by a flag that may be shortened or by its key."""
    flags = any(len(a) > 2 and "--multirun".startswith(a) for a in arguments)
    return flags or "-m" in arguments or any(_key(a) == "hydra.mode" for a in arguments)


def _overrides_of_a_sweep(arguments: list[str]) -> list[str]:
    """What a sweep needs to know of its own command line, also in the other processes that run its trials."""
    keys = [
        f"sweep.{name}=[{','.join(map(repr, found))}]"
        for name, found in zip(("over", "fixed"), swept_keys(arguments), strict=True)
    ]
    has_folder = any(_key(argument) == "hydra.sweep.dir" for argument in arguments)
    return keys if has_folder else [*keys, f"hydra.sweep.dir=logs/{sweep_name(arguments)}"]


def _overrides_for_hydra(repeated: list[str], arguments: list[str]) -> Iterator[str]:
    """The command line as Hydra needs it: what is repeated from an earlier run, unless given anew, then `arguments`.

    `trainer.x=1` becomes `++trainer.x=1`: Hydra refuses keys that conf/ does not list, and headstart.settings checks
    them all the same.
    """
    given = {_key(argument) for argument in arguments}
    for override in [o for o in repeated if _key(o) not in given] + arguments:
        yield f"++{override}" if OPEN_GROUPS.match(override) else override


def _overrides_of_resumed_run(arguments: list[str]) -> list[str]:
    for argument in arguments:
        if _key(argument) == "ckpt_path":
            checkpoint = Path(argument.partition("=")[2].strip("'\"").replace('\\"', '"'))
            record = checkpoint.absolute().parent.parent / ".hydra" / "overrides.yaml"
            if record.is_file():
                overrides = [str(override) for override in OmegaConf.load(record)]
                # A trial is gone on with as a run of its own.
                left_out = ("ckpt_path", "task", "sweep", "sweep.over", "sweep.fixed", "sweep.objective")
                return [override for override in overrides if _key(override) not in left_out]
    return []


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _refuse_used_run_folder(arguments: list[str]) -> None:
    """Before Hydra writes its own files into it."""
    # The further processes that Lightning starts share the folder of the first.
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    for argument in arguments:
        if _key(argument) == "hydra.run.dir":
            folder = Path(argument.partition("=")[2].strip("'\""))
            if (folder / RUN_RECORD).exists():
                raise HeadstartError(f"{folder} already holds a run: choose another folder for this one")


def _discard_begun_run() -> None:
    """Removes the folder of a run that failed before its first epoch had ended, and parents left empty by that.

    Nothing is removed if anything in the folder is older than this process, or not a run's.
    """
    if is_trial():
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().output_subdir is None or not all(BEGINNINGS.fullmatch(p.name) for p in folder.iterdir()):
        return
    if any(path.lstat().st_ctime < PROCESS_START for path in folder.rglob("*")):
        return
    shutil.rmtree(folder)
    for parent in folder.parents:
        # A folder above the current one was not made by Hydra, even if it is empty.
        if Path.cwd() not in parent.parents or any(parent.iterdir()):
            return
        parent.rmdir()


def _sentence(error: Exception, schema: type) -> str:
    key = getattr(error.__cause__, "full_key", None)
    if key and str(error).startswith("Could not override"):
        return str(unknown_key(key, schema))
    if isinstance(error, OSError) and not isinstance(error, HydraException):
        return _system_sentence(error)
    if missing := re.search(r"Missing mandatory value: (\S+)", str(error)):
        return f"{missing.group(1)} is missing: give it with {missing.group(1)}=VALUE"
    if PLUGINS.search(str(error)):
        return 'that belongs to an extra that is not installed: python -m pip install -e ".[sweep]"'
    lines = [line.strip() for line in str(error).partition("Config search path")[0].splitlines()]
    kept = [line for line in lines if line and not line.startswith(("See https", "^", "full_key", "object_type"))]
    return "; ".join(kept)


def _origin(error: Exception) -> str:
    """The package that raised it."""
    *_, innermost = traceback.walk_tb(error.__traceback__)
    return str(innermost[0].f_globals.get("__name__", "")).partition(".")[0]


def _system_sentence(error: OSError) -> str:
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"


def _fail(sentence: str) -> NoReturn:
    sys.stdout.flush()
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1)


def _register_resolvers() -> None:
    """Makes the resolvers of conf/ known."""
    # One name a run, however often it is asked for.
    name = _unique_name()
    resolvers: dict[str, Callable[..., str]] = {
        "run_name": _run_name,
        "unique_name": lambda: name,
        "trial_name": _trial_name,
        "direction": lambda objective: "minimize" if objective.endswith("loss") else "maximize",
    }
    for key, resolver in resolvers.items():
        OmegaConf.register_resolver(key, resolver, replace=True)


# Also by the import: a process that runs a trial for another one imports this module, and starts no script.
_register_resolvers()
