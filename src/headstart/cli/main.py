"""The programs, how they start, and the command line that Hydra gets in place of the one that was typed."""

import gc
import getpass
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.utils import get_method
from omegaconf import DictConfig

from headstart.cli.arguments import (
    PATHS,
    TEXTS,
    Program,
    flags,
    for_hydra,
    register_resolvers,
    with_plain_paths,
)
from headstart.cli.hints import understood
from headstart.cli.resume import (
    as_given,
    evaluates,
    forget_settings_of_runs,
    with_checkpoint_file,
    with_runs_own_folder,
    with_settings_of_run,
)
from headstart.config import CONF
from headstart.config.overrides import given, key_of, literal, parsed_override, sweep_name, swept_keys
from headstart.config.predict import EmbedSettings, PredictSettings, check_embed, check_predict
from headstart.config.train import INTO_RUN, TrainSettings, check_train
from headstart.errors import HeadstartError
from headstart.files import folder_in_cache, usual_cache_folder
from headstart.log import abandon_output, is_first_process, log_to_console, quoted, show
from headstart.machine import program_starts
from headstart.program import (
    OUTPUT,
    Failed,
    ended_by_signals,
    errors_in_threads,
    exit_on_error,
    is_multirun,
    mark_if_new,
    one_sentence,
    quiet_when_pipe_is_closed,
)

# What Hydra itself may instantiate. A resumed run repeats what it finds in a folder, which may be somebody else's.
HYDRA_TARGETS = ["headstart.sweeping.callback.SweepCallback", "hydra_plugins.*", "optuna.samplers.*", "logging.*"]
LET_FIRST_REPORT = 3  # seconds
# Where it is set, it says on how many cores NumPy computes.
BLAS_THREADS = "OPENBLAS_NUM_THREADS"
# With these flags, options may come from elsewhere than conf/.
OTHER_CONF = {"--config-path", "--config-dir", "--config-name", "--experimental-rerun"}


# The programs. What they do is imported late: torch and Lightning take seconds, and reporting a typo should not.


@contextmanager
def garbage_collector_off() -> Iterator[None]:
    """Keeps Python from looking for garbage in the block: imports leave a million objects, and take a quarter less."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _train(config: DictConfig) -> float | None:
    if is_multirun():
        use_writable_caches()
        with garbage_collector_off():
            from headstart.sweeping.trial import run_trial

        return run_trial(config)
    folder = Path(HydraConfig.get().runtime.output_dir)
    OUTPUT.set(folder)
    with exit_on_error():
        if config.get("task") not in INTO_RUN:
            mark_if_new(folder)
        settings = check_train(config)
        use_writable_caches()
        with garbage_collector_off():
            from headstart.data.images import allowed_pixels
            from headstart.pipeline import TASKS, check_without_data
            from headstart.training.jobs import several_processes

        settings, count = check_without_data(settings)
        # The command line of further processes of the same run.
        arguments = [*sys.argv[1:], f"hydra.run.dir={literal(str(folder))}", "hydra.output_subdir=null"]
        with several_processes(count, arguments), allowed_pixels(settings.data.max_pixels):
            result = TASKS[settings.task](settings)
    if not result:
        sys.exit(1)
    return None


def _with_checkpoint(check: Callable[[DictConfig], Any], function: str) -> Callable[[DictConfig], None]:
    """Returns a task that calls `function` of headstart.predict, imported late, with the settings from `check`."""

    def task(config: DictConfig) -> None:
        with exit_on_error():
            settings = check(config)
            use_writable_caches()
            with garbage_collector_off():
                from headstart.data.images import allowed_pixels

                run = get_method(f"headstart.predict.{function}")
            with allowed_pixels(settings.data.max_pixels):
                run(settings)

    return task


TRAIN = Program("train", TrainSettings, _train)
PREDICT = Program("predict", PredictSettings, _with_checkpoint(check_predict, "run.predict"))
EMBED = Program("embed", EmbedSettings, _with_checkpoint(check_embed, "embed.embed"))


# How a program starts.


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
        finally:
            # The interpreter looks for garbage several times before it ends, among all that was imported.
            gc.freeze()


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
    with one_sentence(program.schema, tracebacks=tracebacks), errors_in_threads():
        sys.argv[1:] = arguments_for_hydra(sys.argv[1:], program)
        targets = HYDRA_TARGETS if program.trains else None
        # It composes the config from sys.argv and conf/.
        hydra.main(config_path=str(CONF), config_name=program.name, execution_whitelist=targets)(program.task)()


def share_cores() -> None:
    """Lets NumPy compute on one core, and Matplotlib draw without a display; must come before they are imported.

    NumPy's threads spin while they wait for each other, and beside another program they wait long. The folds and draws
    of a report, which take longest, run in threads of headstart's own.
    """
    os.environ.setdefault(BLAS_THREADS, "1")
    # All charts are files; that of a notebook, from which the program was started, need not be installed.
    os.environ["MPLBACKEND"] = "agg"


def use_writable_caches() -> None:
    """Sets the variables of libraries whose own choice of a folder cannot work; must come before they are imported."""
    variables = {}
    if usual_cache_folder() is None:
        # The last is Triton's, which PyTorch compiles with on a GPU.
        variables = {"MPLCONFIGDIR": "matplotlib", "TORCH_HOME": "torch", "TRITON_CACHE_DIR": "triton"}
    try:
        has_name = bool(getpass.getuser())
    except (ImportError, KeyError, OSError):
        has_name = False
    variables |= {} if has_name else {"TORCHINDUCTOR_CACHE_DIR": "torchinductor"}
    for variable, name in variables.items():
        if not os.environ.get(variable):
            os.environ[variable] = str(folder_in_cache(name).absolute())


# From what a user types to what Hydra accepts.


def arguments_for_hydra(arguments: list[str], program: Program) -> list[str]:
    """Returns the command line as Hydra takes it.

    Raises:
        HeadstartError: it is not understood; the message has the command that was probably meant.
    """
    for argument in arguments:
        if not _is_encodable(argument):
            raise HeadstartError(f"{argument} is invalid: it is not UTF-8")
    if OTHER_CONF & flags(arguments).keys():
        program = replace(program, conf=None)
    if "--help" in flags(arguments):
        arguments = [argument for argument in arguments if argument.startswith("-") or parsed_override(argument)]
    forget_settings_of_runs()
    arguments = understood(as_given(arguments), program)
    is_sweep = "--multirun" in flags(arguments) or given(arguments, "hydra.mode") != []
    if program.name == "predict":
        # Hydra would look for model=FILE in conf/model.
        arguments = [f"model.file={arg.partition('=')[2]}" if arg.startswith("model=") else arg for arg in arguments]
    resumes = program.trains and not evaluates(arguments)
    arguments = with_runs_own_folder(with_checkpoint_file(arguments, "last" if resumes else "best"))
    arguments = with_plain_paths(arguments, is_sweep=is_sweep)
    _check_readable(arguments)
    if program.trains and is_sweep:
        arguments = arguments + _sweep_overrides(arguments)
    else:
        _reject_sweep_keys(arguments)
    if program.trains:
        _check_current_folder()
        arguments += [] if is_first_process() else ["hydra.output_subdir=null"]
    if program.trains and not is_sweep:
        arguments = with_settings_of_run(arguments)
    return for_hydra(arguments)


def _check_current_folder() -> None:
    """Raises HeadstartError if Hydra cannot write the name of the current folder into its records."""
    folder = os.getcwd()
    if "${" in folder:
        raise HeadstartError(f"the current folder, {folder}, has ${{ in its name: Hydra cannot run there")
    if not _is_encodable(folder):
        raise HeadstartError(f"the current folder, {folder}, has a name that is not UTF-8: Hydra cannot run there")


def _is_encodable(text: str) -> bool:
    return text.encode(errors="replace").decode() == text


def _reject_sweep_keys(arguments: list[str]) -> None:
    for key, what in (("sweep", "chooses"), ("sweep.ensemble", "averages")):
        if given(arguments, key):
            raise HeadstartError(f"{key}= {what} the trials of a sweep, and needs -m")


def _check_readable(arguments: list[str]) -> None:
    """Raises HeadstartError for a value that Hydra would not understand."""
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key.startswith("-") or key_of(key) in PATHS | TEXTS:
            continue
        if parsed_override(argument) is None:
            text = str(QuotedString(value, Quote.double).with_quotes())
            raise HeadstartError(f"{argument} cannot be read: put quotes around the value: {quoted(f'{key}={text}')}")


def _sweep_overrides(arguments: list[str]) -> list[str]:
    """Returns what a sweep needs to know about its command line, also in other processes that run its trials."""
    over, fixed = swept_keys(arguments)
    keys = [f"sweep.{name}=[{','.join(map(repr, of))}]" for name, of in (("over", over), ("fixed", fixed))]
    return keys if given(arguments, "hydra.sweep.dir") else [*keys, f"hydra.sweep.dir=logs/{sweep_name(arguments)}"]
