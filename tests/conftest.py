"""Small generated images and small backbones; nothing is downloaded."""

import copy
import functools
import io
import logging
import os
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

# Before NumPy and PyTorch are imported, as headstart's programs set them: threads that wait for each other would spin.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch
from composed_once import compose_once
from fork_server import ForkServer
from hydra import compose, initialize_config_dir
from lightning_fabric.utilities import registry
from omegaconf import DictConfig
from PIL import Image

from headstart.cli.arguments import for_hydra, register_resolvers, with_plain_paths
from headstart.config.data import SplitSettings
from headstart.config.train import TrainSettings, check_train
from headstart.data.image_info import inspect_images
from headstart.data.manifest import Manifest, build_manifest
from headstart.data.scan import scan_folder
from headstart.log import log

ROOT = Path(__file__).parents[1]
ARCH = "shufflenet_v2_x0_5"
# A backbone and images so small that a run takes a second.
SMALL = (
    "data=folder",
    f"model.arch={ARCH}",
    "model.weights=null",
    "data.resize_size=40",
    "data.image_size=32",
    "data.num_workers=0",
    "data.batch_size=8",
    "trainer.accelerator=cpu",
    "trainer.max_epochs=3",
    "features.compile=false",
    "report=none",
)
# The fixtures that run train.py or predict.py, or have run them.
PROGRAMS = {"script", "forks", "trained", "trained_to_export"}
COLOURS = {"blue": (40, 60, 200), "green": (30, 160, 60), "red": (200, 50, 40)}


def draw(path: Path, colour: tuple[int, int, int], seed: int, size: tuple[int, int] = (48, 40)) -> None:
    """An image of one colour with noise, in the format of its extension."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drawn(colour, seed, size, path.suffix.lower()))


@functools.cache
def drawn(colour: tuple[int, int, int], seed: int, size: tuple[int, int], suffix: str) -> bytes:
    """The content of such an image: most tests draw the same ones."""
    noise = np.random.default_rng(seed).normal(0, 40, (size[1], size[0], 3))
    pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, Image.registered_extensions()[suffix])
    return content.getvalue()


def draw_classes(folder: Path, count: int, first_seed: int = 0) -> Path:
    """`folder`/<colour>/0.jpg … for three colours, `count` images each."""
    for number, (name, colour) in enumerate(COLOURS.items()):
        for index in range(count):
            draw(folder / name / f"{index}.jpg", colour, first_seed + 1000 * number + index)
    return folder


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    """Flat class folders with 12 images each."""
    return draw_classes(tmp_path / "flat", 12)


@pytest.fixture
def split_folders(tmp_path: Path) -> Path:
    """train/ (8 images per class), val/ (4) and test/ (4)."""
    root = tmp_path / "images"
    for seed, (name, count) in enumerate({"train": 8, "val": 4, "test": 4}.items()):
        draw_classes(root / name, count, first_seed=100 * seed)
    return root


def manifest_of(root: Path, rule: SplitSettings) -> Manifest:
    """The manifest of all images in a folder."""
    scan = scan_folder(root, rule, seed=0)
    infos = inspect_images(root, [sample.path for sample in scan.samples])
    return build_manifest(scan, infos, skipped=(), dropped=())


def settings_of(*overrides: str) -> TrainSettings:
    """The settings of `python train.py` with these overrides."""
    return check_train(config_of(*overrides))


def config_of(*overrides: str) -> DictConfig:
    """As `settings_of`, before it is checked."""
    register_resolvers()
    return copy.deepcopy(composed(tuple(for_hydra(with_plain_paths(overrides, is_sweep=False)))))


@functools.cache
def composed(overrides: tuple[str, ...]) -> DictConfig:
    """Hydra's part of `config_of`, which takes longer than most tests."""
    with initialize_config_dir(str(ROOT / "conf")):
        return compose("train", [*overrides, "run_dir=run"])


@dataclass
class Result:
    status: int
    out: str
    err: str


Script = Callable[..., Result]


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Script:
    """Runs train.py or predict.py with arguments in this process, in an empty folder, as `__main__`."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(name: str, *arguments: str) -> Result:
        # The scripts set it for themselves; left over, it would turn sentences into tracebacks.
        monkeypatch.setenv("HYDRA_FULL_ERROR", "")
        monkeypatch.setattr(sys, "argv", [str(ROOT / name), *arguments])
        capfd.readouterr()
        status = 0
        try:
            runpy.run_path(str(ROOT / name), run_name="__main__")
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        captured = capfd.readouterr()
        return Result(status, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def forks() -> Iterator[ForkServer]:
    """Starts processes of the scripts without the seconds that their imports take."""
    server = ForkServer()
    yield server
    server.close()


def train_in(base: Path, *overrides: str) -> Path:
    """The folder of a finished run in `base`, on generated images in `base / "images"`."""
    draw_classes(base / "images", 12)
    run = base / "run"
    arguments = [f"data.root={base / 'images'}", "data.split.train=6", "data.split.valid=3", *SMALL, "report=full"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments, *overrides, f"hydra.run.dir={run}"])
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on generated images in `trained.parent / "images"`."""
    return train_in(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def trained_to_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `trained`, with a backbone of so few layers that an export takes a third of the time."""
    return train_in(tmp_path_factory.mktemp("to_export"), "model.arch=squeezenet1_1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that run a program as slow."""
    for item in items:
        if not PROGRAMS.isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: Sequence[object]) -> None:
    """Divides the cores among the workers of pytest-xdist, which inherit the environment."""
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // len(specs))))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Features go into a folder of the tests, never into the user's."""
    folder = tmp_path_factory.mktemp("cache")
    # Matplotlib's list of the machine's fonts, which takes it seconds to make, stays where it is.
    fonts = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "matplotlib")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MPLCONFIGDIR", os.environ.get("MPLCONFIGDIR") or str(fonts))
        patch.delenv("HEADSTART_CACHE", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def composes_once() -> Iterator[None]:
    """To compose a configuration takes as long as to check it, or to train with it for an epoch."""
    with pytest.MonkeyPatch.context() as patch:
        compose_once(patch)
        # Each Trainer looks through all installed packages for callbacks.
        patch.setattr(registry, "entry_points", functools.cache(entry_points))
        yield


@pytest.fixture(autouse=True)
def same_random_state() -> Iterator[None]:
    """A test neither sees nor leaves another one's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        yield


class _Messages(logging.Handler):
    """Collects the text of all messages."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What headstart logs during a test, instead of on the terminal."""
    handler = _Messages()
    monkeypatch.setattr(log, "handlers", [handler])
    monkeypatch.setattr(log, "propagate", False)
    level = log.level
    # Not by its attribute: loggers remember which levels are enabled.
    log.setLevel(logging.INFO)
    yield handler.texts
    log.setLevel(level)
