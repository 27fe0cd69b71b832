"""headstart from Python: the runs of the command line, several in one process, which is left as it was."""

import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, Script, draw_classes
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import ImageFile
from threadpoolctl import threadpool_info, threadpool_limits  # type: ignore[import-untyped]

import headstart
import headstart.api  # torch and Hydra change the process when they are imported
from headstart.cli.main import BLAS_THREADS

RULE = ("data.split.train=6", "data.split.valid=3", "trainer.max_epochs=2")


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def process() -> dict[str, Any]:
    """What a run must not change."""
    loggers = [logging.getLogger(name) for name in ("", "headstart", "pytorch_lightning", "hydra", "matplotlib")]
    generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # type: ignore[index]
    return {
        "argv": list(sys.argv),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "logging": [(of.level, list(of.handlers), of.propagate, of.disabled) for of in loggers],
        "random": generators,
        "signals": [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)],
        "torch": (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()),
        "hydra": GlobalHydra.instance().is_initialized(),
        "excepthooks": (sys.excepthook, threading.excepthook),
    }


def test_hydra__is_kept_from_configuring_logging_wherever_it_does() -> None:
    modules = [(name, vars(module)) for name, module in sys.modules.items() if name.startswith("hydra.")]
    configuring = {name for name, names in modules if "configure_log" in names}
    assert configuring == {place.__name__ for place in headstart.api.CONFIGURING}


def test_train__is_what_the_command_line_does(script: Script, flat: Path) -> None:
    result = script("train.py", f"data.root={flat}", *SMALL, *RULE, "hydra.run.dir=by_script")
    assert result.status == 0, result.err
    before = process()
    run = headstart.train(*SMALL, *RULE, data=flat, folder="by_api")
    assert process() == before
    assert run.folder == Path("by_api").absolute()
    by_script = headstart.Run(Path("by_script"))
    assert run.history == by_script.history
    timeless = [{key: value for key, value in of.metrics.items() if key != "seconds"} for of in (run, by_script)]
    assert timeless[0] == timeless[1]
    names = [{str(p.relative_to(of.folder)) for p in of.folder.rglob("*")} for of in (run, by_script)]
    files = [{name for name in found if "tfevents" not in name} for found in names]
    assert files[0] == files[1]


@pytest.mark.parametrize("given", [None, "2"])
def test_numpy__computes_on_one_core_within_a_run(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def threads() -> set[int]:
        return {of["num_threads"] for of in threadpool_info() if of["user_api"] == "blas"}

    monkeypatch.delenv(BLAS_THREADS, raising=False)
    if given:
        monkeypatch.setenv(BLAS_THREADS, given)
    with threadpool_limits(2, "blas"):
        before = dict(os.environ)
        with headstart.api._restore_process_state():
            assert threads() == {1 if given is None else 2}
            assert os.environ[BLAS_THREADS] == (given or "1")
        assert threads() == {2}
        assert dict(os.environ) == before


@pytest.mark.slow
def test_several_in_one_process__also_in_a_thread(flat: Path) -> None:
    given = (*SMALL, *RULE)
    first = headstart.train(*given, data=flat)
    predicted = first.predictor(accelerator="cpu").predict(flat / "red", topk=1)
    found: list[headstart.Run] = []
    thread = threading.Thread(target=lambda: found.append(headstart.train(*given, data=flat)))
    thread.start()
    # Waits for the other.
    second = headstart.train(*given, data=flat)
    thread.join()
    assert first.history == second.history == found[0].history
    assert len({first.folder, second.folder, found[0].folder}) == 3
    again = found[0].predictor(accelerator="cpu").predict(flat / "red", topk=1)
    assert [p.probabilities for p in again] == [p.probabilities for p in predicted]


@pytest.mark.slow
def test_sweep__has_a_row_for_each_trial(flat: Path) -> None:
    before = process()
    board = headstart.sweep(*SMALL, *RULE, data=flat, lr=[1e-2, 1e-3], folder="sweep")
    assert process() == before
    assert board.folder == Path("sweep").absolute()
    assert sorted(row["model.lr"] for row in board.rows) == ["0.001", "0.01"]
    assert board.summary["trials"] == 2
    assert board.best.folder.name == board.rows[0]["folder"]
    assert board.best.checkpoint.is_file()


@pytest.mark.slow
def test_audit__returns_the_findings(flat: Path) -> None:
    # With features of the same images that another test has stored, it would find near duplicates.
    options = (*SMALL[1:], *RULE, f"features.dir={flat.parent / 'features'}")
    assert {finding.severity for finding in headstart.audit(flat, *options)} == {"warning"}
    (flat / "red" / "broken.jpg").write_bytes(b"")
    finding = headstart.audit(flat, *options)[0]
    assert (finding.kind, finding.paths, finding.severity) == ("empty file", ("red/broken.jpg",), "error")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "keywords", "says"),
    [
        ((), {"data": "nowhere"}, "data.root=nowhere does not exist"),
        (("model.lrr=1",), {"data": "."}, "model.lr"),
        ((), {"data": ".", "lr": -1}, "model.lr=-1.0 is invalid: it must be a positive number"),
        ((), {"learning_rate": 1}, "learning_rate is not a keyword"),
        (("data=foldr",), {}, "data=foldr is not available: did you mean folder?"),
        (("name=mine",), {"data": "."}, "did you mean hydra.run.dir=mine?"),
    ],
)
def test_errors__are_those_of_the_command_line(
    overrides: tuple[str, ...], keywords: dict[str, Any], says: str, capfd: pytest.CaptureFixture[str]
) -> None:
    before = process()
    with pytest.raises(headstart.HeadstartError) as error:
        headstart.train(*overrides, **keywords)
    assert says in str(error.value)
    assert process() == before
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_hydra_of_the_surrounding_program__goes_on(flat: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "config.yaml").write_text("a: 1\n")
    with initialize_config_dir(str(tmp_path / "own")):
        headstart.audit(flat, *SMALL[1:], *RULE)
        assert compose("config", ["a=2"]).a == 2


@pytest.mark.slow
def test_interrupted__as_any_python_code(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("headstart.model.classifier.Classifier.on_train_epoch_start", interrupt)
    # A shell starts its background jobs, maybe these tests, with SIGINT ignored.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        before = process()
        with pytest.raises(KeyboardInterrupt):
            headstart.train(*SMALL, *RULE, data=flat, folder="interrupted")
        assert process() == before
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.slow
def test_error__leaves_the_surrounding_programs_processes_alone(flat: Path) -> None:
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    try:
        with pytest.raises(headstart.HeadstartError):
            headstart.train(*SMALL, *RULE, data=flat / "nowhere")
        assert other.is_alive()
    finally:
        other.kill()
        other.join()


def test_names__are_all_there() -> None:
    for name in headstart.__all__:
        assert getattr(headstart, name) is not None
        assert name in dir(headstart)
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        headstart.trian  # noqa: B018


@pytest.mark.slow
def test_backend_of_matplotlib__is_the_surrounding_programs() -> None:
    # A process for each backend, forked when the imports that take seconds are done.
    code = """
import headstart.api, os, sys
assert "matplotlib" not in sys.modules
for backend in sys.argv[1:]:
    os.environ["MPLBACKEND"] = backend
    if os.fork() == 0:
        headstart.api._import_matplotlib()
        import headstart.report.charts, matplotlib
        print(os.environ["MPLBACKEND"], matplotlib.rcParams._get_backend_or_none(), flush=True)
        os._exit(0)
    os.wait()
"""
    backends = ("nonsense", "svg", "module://matplotlib_inline.backend_inline")
    done = subprocess.run([sys.executable, "-c", code, *backends], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [line.split() for line in done.stdout.splitlines()]
    assert found == [[backend, "None" if backend == "nonsense" else backend] for backend in backends]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float], list[float]]:
    """A folder of images, and what a training on them and predictions give in a process with the usual settings."""
    images = draw_classes(tmp_path_factory.mktemp("plain") / "images", 12)
    return images, *trained_on(images, images.parent / "run")


def trained_on(images: Path, run: Path) -> tuple[dict[str, float], list[float]]:
    rule = ("data.split.train=6", "data.split.valid=3", f"features.dir={run.parent / 'features'}")
    metrics = headstart.train(f"data.root={images}", *SMALL, *rule, f"hydra.run.dir={run}").metrics
    found = headstart.load(run, accelerator="cpu").predict(images / "red")
    return metrics | {"seconds": 0.0}, [prediction.probabilities[0] for prediction in found]


def use_float64(stack: ExitStack, patch: pytest.MonkeyPatch) -> None:
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)


def raise_warnings(stack: ExitStack, patch: pytest.MonkeyPatch) -> None:
    stack.enter_context(warnings.catch_warnings())
    warnings.simplefilter("error")


# Those that could hide each other are not in one group.
Setting = Callable[[ExitStack, pytest.MonkeyPatch], object]
SETTINGS: dict[str, tuple[Setting, ...]] = {
    "numbers": (
        use_float64,
        lambda stack, patch: stack.enter_context(torch.device("meta")),
        lambda stack, patch: stack.enter_context(np.errstate(all="raise")),
        lambda stack, patch: patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True),
        raise_warnings,
    ),
    "inference": (
        lambda stack, patch: stack.enter_context(torch.autocast("cpu", torch.bfloat16)),
        lambda stack, patch: stack.enter_context(torch.inference_mode()),
    ),
    "no_grad": (lambda stack, patch: stack.enter_context(torch.no_grad()),),
}


@pytest.mark.slow
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_settings_of_the_surrounding_program__change_no_figure(
    plain: tuple[Path, dict[str, float], list[float]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: tuple[Setting, ...],
) -> None:
    images, metrics, probabilities = plain
    with ExitStack() as stack:
        for setting in settings:
            setting(stack, monkeypatch)
        found = trained_on(images, tmp_path / "run")
    assert found == (metrics, probabilities)
