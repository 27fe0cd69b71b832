"""How the programs start: overrides for Hydra, and errors in one sentence."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from headstart.cli.errors import (
    Failed,
    ended_by_signals,
    errors_in_threads,
    fail,
    is_about_command_line,
    quiet_when_pipe_is_closed,
    sentence_of,
)
from headstart.cli.hints import understood
from headstart.cli.overrides import (
    PATHS,
    TEXTS,
    for_hydra,
    key_of,
    parsed_override,
    register_resolvers,
    sweep_name,
    swept_keys,
    value_of,
    with_model_file,
    with_plain_paths,
)
from headstart.cli.programs import Script, conf_folder, share_cores
from headstart.cli.resume import (
    as_given,
    evaluates,
    forget_settings_of_runs,
    with_checkpoint_file,
    with_runs_own_folder,
    with_settings_of_run,
)
from headstart.config.train import is_encodable, known_keys
from headstart.errors import HeadstartError
from headstart.log import abandon_output, is_first_process, log_to_console, quoted, show
from headstart.machine import program_starts

# What Hydra itself may instantiate. A resumed run repeats what it finds in a folder, which may be somebody else's.
HYDRA_TARGETS = ["headstart.sweeping.callback.SweepCallback", "hydra_plugins.*", "optuna.samplers.*", "logging.*"]
LET_FIRST_REPORT = 3  # seconds
# With these flags, options may come from elsewhere than conf/.
OTHER_CONF = ("--config-path", "-cp", "--config-dir", "-cd", "--config-name", "-cn", "--experimental-rerun")


@dataclass(frozen=True)
class Program:
    """One of the programs: its Hydra main, the class of its settings, and its name without .py."""

    main: Callable[[], Any]
    schema: type
    name: str

    @property
    def trains(self) -> bool:
        """Whether a checkpoint on its command line stands for the settings of the run that it came from."""
        return self.name == "train"


def start(program: Program) -> None:
    """Runs a program with the command line in sys.argv; an error ends it with one sentence and status 1."""
    program_starts()
    share_cores()
    for name in ("stdout", "stderr"):
        # It may have been closed, as by >&-.
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115
        setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            # A file's name need not be valid in any encoding, and is printed all the same.
            stream.reconfigure(errors="backslashreplace")
    with quiet_when_pipe_is_closed(), ended_by_signals():
        if "--version" in sys.argv[1:]:
            print(f"headstart {version('headstart')}")
            return
        try:
            run_program(program)
        except Failed as failed:
            abandon_output()
            if not is_first_process():
                # An error of all processes is the first one's to report, which then ends the others.
                time.sleep(LET_FIRST_REPORT)
            show(f"error: {failed.sentence}", sys.stderr)
            raise


def run_program(program: Program) -> None:
    """Runs a program with the command line in sys.argv.

    With `program.trains`, a command line that names a checkpoint is preceded by the settings of the run it came from,
    and that of a sweep gets the sweep's folder.

    Raises:
        Failed: the user's input or machine is at fault.
    """
    tracebacks = bool(os.environ.get("HYDRA_FULL_ERROR"))
    # Otherwise Hydra would print errors, and advice to set it, by itself.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    log_to_console()
    register_resolvers()
    with _one_sentence(program.schema, tracebacks), errors_in_threads():
        sys.argv[1:] = arguments_for_hydra(sys.argv[1:], program)
        program.main()


@contextmanager
def _one_sentence(schema: type, tracebacks: bool) -> Iterator[None]:
    try:
        yield
        # What cannot be written is an error too.
        sys.stdout.flush()
    except HeadstartError as error:
        fail(str(error))
    except BrokenPipeError:
        raise
    except (HydraException, OmegaConfBaseException, OSError) as error:
        if tracebacks:
            raise
        fail(sentence_of(error, schema))
    except (ValueError, RuntimeError, AssertionError, ImportError) as error:
        if tracebacks or not is_about_command_line(error):
            raise
        fail(" ".join(str(error).split()) or "these settings were rejected by Hydra")
    except KeyboardInterrupt:
        sys.exit(130)


def arguments_for_hydra(arguments: list[str], program: Program) -> list[str]:
    """The command line as Hydra takes it.

    Raises:
        HeadstartError: it is not understood; the message has the command that was probably meant.
    """
    has_own_conf = not set(OTHER_CONF) & set(arguments)
    conf, trains = conf_folder() if has_own_conf else None, program.trains
    script = Script(f"{program.name}.py", tuple(known_keys(program.schema)), conf)
    if {"--help", "-h"} & set(arguments):
        arguments = [argument for argument in arguments if argument.startswith("-") or parsed_override(argument)]
    forget_settings_of_runs()
    arguments = as_given(arguments)
    arguments = understood(arguments, script)
    is_sweep = _asks_for_multirun(arguments)
    if program.name == "predict":
        arguments = with_model_file(arguments)
    resumes = trains and not evaluates(arguments)
    arguments = with_runs_own_folder(with_checkpoint_file(arguments, "last" if resumes else "best"))
    arguments = with_plain_paths(arguments, is_sweep=is_sweep)
    _check_readable(arguments)
    if trains and is_sweep:
        arguments = arguments + _sweep_overrides(arguments)
    else:
        _reject_sweep_keys(arguments)
    if trains:
        arguments += _without_hydras_record(arguments, is_sweep)
        arguments += [] if is_first_process() else ["hydra.output_subdir=null"]
    if trains and not is_sweep:
        arguments = with_settings_of_run(arguments)
    return for_hydra(arguments)


def _reject_sweep_keys(arguments: list[str]) -> None:
    for key, what in (("sweep", "chooses"), ("sweep.ensemble", "averages")):
        if any(key_of(argument) == key for argument in arguments):
            raise HeadstartError(f"{key}= {what} the trials of a sweep, and needs -m")


def _check_readable(arguments: list[str]) -> None:
    """Raises HeadstartError for a value that Hydra would not understand."""
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key.startswith("-") or key_of(key) in PATHS | TEXTS:
            continue
        if not is_encodable(argument):
            raise HeadstartError(f"{argument} is invalid: it is not UTF-8")
        if parsed_override(argument) is None:
            text = str(QuotedString(value, Quote.double).with_quotes())
            raise HeadstartError(f"{argument} cannot be read: put quotes around the value: {quoted(f'{key}={text}')}")


def _without_hydras_record(arguments: list[str], is_sweep: bool) -> list[str]:
    """What keeps Hydra from recording the names of folders that are not UTF-8, which it cannot."""
    if "${" in os.getcwd():
        raise HeadstartError(f"the current folder, {os.getcwd()}, has ${{ in its name: Hydra cannot run there")
    places = [value_of(argument) for argument in arguments if key_of(argument) in ("hydra.run.dir", "hydra.sweep.dir")]
    if all(map(is_encodable, [os.getcwd(), *places])):
        return []
    if is_sweep:
        raise HeadstartError("a sweep (-m) needs a folder whose name, and that of the current one, is UTF-8")
    return ["hydra.output_subdir=null"]


def _asks_for_multirun(arguments: list[str]) -> bool:
    """By a flag, which may be shortened, or by its key."""
    flags = any(len(a) > 2 and "--multirun".startswith(a) for a in arguments)
    return flags or "-m" in arguments or any(key_of(a) == "hydra.mode" for a in arguments)


def _sweep_overrides(arguments: list[str]) -> list[str]:
    """What a sweep needs to know about its own command line, also in other processes that run its trials."""
    keys = [
        f"sweep.{name}=[{','.join(map(repr, found))}]"
        for name, found in zip(("over", "fixed"), swept_keys(arguments), strict=True)
    ]
    has_folder = any(key_of(argument) == "hydra.sweep.dir" for argument in arguments)
    return keys if has_folder else [*keys, f"hydra.sweep.dir=logs/{sweep_name(arguments)}"]
