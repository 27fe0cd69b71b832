"""Shared by the benchmarks: running processes, describing the machine, saving results as JSON."""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from headstart.backbones.backbone import Backbone
from headstart.backbones.provider import Choice
from headstart.backbones.torchvision import PROVIDER
from headstart.config.data import SplitSettings
from headstart.data.dataset import ImageDataset
from headstart.data.image_info import inspect_images
from headstart.data.manifest import build_manifest
from headstart.data.prepare import PreparedData
from headstart.data.preprocessing import Preprocessing
from headstart.data.scan import scan_folder
from headstart.features.encoder import Encoder
from headstart.features.source import SplitFeatures
from headstart.features.store import FeatureStore
from headstart.machine import cpu_name

HERE = Path(__file__).parent
ROOT = HERE.parent
EPOCHS = 20
SIDE = 2048  # of the matrices that are multiplied


def data_folder(description: str | None) -> Path:
    """The DATA argument of a benchmark: flat class folders with at least 59 JPEGs each."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("data", type=Path, help="flat class folders; the first 50 images of each class are trained on")
    return parser.parse_args().data.resolve()


def inspected(root: Path, train: int = 50, valid: int = 8) -> PreparedData:
    """The images in flat class folders: the first `train` of each class, the next `valid`, and the rest for testing."""
    scan = scan_folder(root, SplitSettings(train, valid), seed=0)
    infos = inspect_images(root, [sample.path for sample in scan.samples])
    return PreparedData(build_manifest(scan, infos, skipped=(), dropped=()), scan, infos)


def resnet50(sizes: Preprocessing) -> Backbone:
    """With random weights, which take as long."""
    network = PROVIDER.load(Choice("resnet50", None), 0)
    return Backbone(network, sizes, "resnet50", "default", 0, PROVIDER.find_stages)


def train_features(dataset: ImageDataset, encoder: Encoder, folder: str) -> SplitFeatures:
    """The features of a train split, with a store in `folder`."""
    return SplitFeatures(dataset, "train", encoder=encoder, store=FeatureStore(Path(folder)), num_workers="auto")


def flops_per_image(backbone: Backbone) -> int:
    """Of its forward pass."""
    size = backbone.preprocessing.image_size
    with FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, size, size, dtype=torch.uint8))
    return int(counter.get_total_flops())


def matrix_rate(precision: str) -> float:
    """The FLOP/s of products of square matrices in "bf16" or "32": the median of many."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(SIDE, SIDE, dtype=dtype) for _ in range(2))
    rates = []
    for _ in range(40):
        start = time.perf_counter()
        a @ b
        rates.append(2 * SIDE**3 / (time.perf_counter() - start))
    return statistics.median(rates[2:])


def seconds_of_passes(data: Path, precision: str, views: int = EPOCHS) -> float:
    """The limit of a cold run: all its forward passes at the rate of matrix products, and nothing else."""
    splits = inspected(data).manifest.splits
    images = views * len(splits["train"]) + len(splits["valid"]) + len(splits["test"])
    return images * flops_per_image(resnet50(Preprocessing(256, 224))) / matrix_rate(precision)


def seconds_of_steps(features: int, images: int, classes: int) -> float:
    """All optimizer steps of a run by themselves: those of a new head in plain PyTorch, on one core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    head = nn.Sequential(
        nn.Linear(features, 256), nn.ReLU(), nn.Dropout(0.4), nn.Linear(256, classes), nn.LogSoftmax(dim=1)
    )
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    data = TensorDataset(torch.randn(images, features), torch.randint(0, classes, (images,)))
    batches = [data[rows] for rows in torch.arange(images).split(32)]
    start = time.perf_counter()
    for _ in range(EPOCHS):
        for x, labels in batches:
            optimizer.zero_grad()
            F.nll_loss(head(x), labels).backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    torch.set_num_threads(threads)
    return seconds


def run(*command: str, **environment: str) -> tuple[float, str]:
    """Runs a Python script of the project; returns its wall-clock seconds, imports included, and its output."""
    # As for any user, the second process finds the bytecode of headstart.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"} | environment
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start, done.stdout


def plain_loop(data: Path, *arguments: str) -> dict[str, Any]:
    """The result of one run of plain_loop.py, with its wall-clock seconds as `wall`."""
    wall, out = run(str(HERE / "plain_loop.py"), str(data), *arguments)
    return json.loads(out) | {"wall": wall}


def plain_run_seconds(data: Path, *arguments: str) -> float:
    """The seconds of a whole plain run of EPOCHS epochs, extrapolated from the median of two timed epochs."""
    measured = plain_loop(data, "--epochs", "2", *arguments)
    return measured["wall"] + (EPOCHS - 2) * statistics.median(measured["epoch"])


@contextmanager
def empty_caches() -> Iterator[dict[str, str]]:
    """Environment variables for a process that finds neither cached features nor compiled code."""
    with tempfile.TemporaryDirectory() as folder:
        yield {"XDG_CACHE_HOME": f"{folder}/features", "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"}


def training(data: Path, folder: str, *overrides: str) -> list[str]:
    """The arguments of a headstart run that does what the plain loop does."""
    return [
        str(ROOT / "train.py"),
        "data=folder",
        f"data.root={data}",
        "data.split.train=50",
        "data.split.valid=8",
        "model.weights=null",
        "callbacks.early_stopping=null",
        f"trainer.max_epochs={EPOCHS}",
        f"hydra.run.dir={folder}/run",
        f"hydra.sweep.dir={folder}/sweep",
        *overrides,
    ]


def brief_run(data: Path, folder: str, environment: dict[str, str], *overrides: str) -> str:
    """The best checkpoint of a run of one epoch on few images."""
    few = ("trainer.max_epochs=1", "data.split.train=1", "data.split.valid=1")
    run(*training(data, folder, *few, *overrides), **environment)
    return f"{folder}/run/checkpoints/best.ckpt"


def save(name: str, **figures: Any) -> None:
    """Writes results/<name>.json, on a GPU results/gpu/<name>.json, and prints it."""
    machine = {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0))}
    result = {"date": datetime.now(UTC).date().isoformat(), "machine": machine} | figures
    text = json.dumps(result, indent=2)
    folder = HERE / "results" / ("gpu" if torch.cuda.is_available() else "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(text + "\n")
    print(text)
