"""The records of a run: what it was made of, where its time went, and what came out."""

import functools
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from headstart.backbones.backbone import BackboneSource
from headstart.config.record import choices, record_of
from headstart.config.train import TrainSettings
from headstart.data.manifest import Manifest
from headstart.files import RUN, claim, read_json, write_json, write_text
from headstart.log import is_first_process, log, shown
from headstart.machine import cpu_name
from headstart.run_folder import RunFolder

PACKAGES = ("headstart", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "pillow", "timm")
# Those of them on whose versions figures depend, and how much of a version says so.
DECISIVE = {"headstart": 3, "torch": 2, "torchvision": 2, "timm": 2}
# What they are imported as, if that is another name.
MODULES = {"pytorch-lightning": "pytorch_lightning", "hydra-core": "hydra", "pillow": "PIL"}


class RunRecord(Callback):
    """Writes run.json, config.yaml and split.csv when a run starts and, at the end of a `with` block, metrics.json.

    The folder is claimed first. `startup`: the seconds that the program took before it, if it does nothing else.
    """

    def __init__(self, settings: TrainSettings, startup: float | None = None) -> None:
        self.run = RunFolder(Path(settings.run_dir))
        self.metrics: dict[str, float] = {}
        self._settings = settings
        self._start = time.perf_counter()
        self._stages: dict[str, float] = {} if startup is None else {"startup": startup}
        self._values: dict[str, Any] = {"started": datetime.now(UTC).isoformat(timespec="seconds")}

    def __enter__(self) -> "RunRecord":
        if is_first_process():
            claim(self.run.path, RUN, "hydra.run.dir")
        return self

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        if error is None:
            self._finish()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time in the block to the seconds of the stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stages[name] = self._stages.get(name, 0.0) + time.perf_counter() - start

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        manifest = trainer.datamodule.manifest  # type: ignore[attr-defined]
        self.begin(trainer.strategy.root_device, manifest, pl_module.recipe.backbone)  # type: ignore[union-attr, arg-type]

    def begin(self, device: torch.device, manifest: Manifest, backbone: BackboneSource) -> None:
        """Records what the run is made of, and what is known about the program and the machine; `device` trains."""
        self._values |= {
            "backbone": asdict(backbone),
            "data_fingerprint": manifest.fingerprint,
            "splits": manifest.origins,
            "skipped": manifest.skipped,
            "dropped": manifest.dropped,
            "command": sys.argv,
            "choices": choices(),
            **_program(),
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            "platform": platform.platform(),
        }
        if is_first_process():
            write_json(self.run.record, self._values)
            write_text(self.run.config, record_of(self._settings))
            manifest.write(self.run.split)
        log.info("run folder: %s", shown(self.run.path))

    def _finish(self) -> None:
        seconds = round(time.perf_counter() - self._start, 3)
        self.metrics["seconds"] = seconds
        whole = {"all": seconds + self._stages.get("startup", 0.0)}
        stages = {name: round(value, 3) for name, value in (self._stages | whole).items()}
        if is_first_process():
            write_json(self.run.record, self._values | {"seconds": stages})
            write_json(self.run.metrics, self.metrics)
        log.info("finished in %.0f s", seconds)


@functools.cache
def _program() -> dict[str, Any]:
    """What the code that this process runs consists of: the same for all trials of a sweep."""
    return {
        "git": git_state(Path(__file__).parent),
        "python": platform.python_version(),
        "packages": _versions(),
    }


def _versions() -> dict[str, str]:
    """Of those of PACKAGES that are installed: timm is an extra."""
    return {name: version(name) for name in PACKAGES if find_spec(MODULES.get(name, name)) is not None}


def warn_about_versions(run: RunFolder) -> None:
    """Warns if a run was made with other versions of the libraries that its figures depend on."""
    try:
        recorded: dict[str, str] = read_json(run.record)["packages"]
    except (OSError, ValueError, KeyError, TypeError):
        # The checkpoint was taken out of its run's folder.
        return
    here = _versions()
    other = [
        name
        for name, parts in DECISIVE.items()
        if name in recorded and name in here and recorded[name].split(".")[:parts] != here[name].split(".")[:parts]
    ]
    if other:
        before, now = (", ".join(f"{name} {of[name]}" for name in other) for of in (recorded, here))
        log.warning("the checkpoint was made with %s, this is %s: figures may differ from its run's", before, now)


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of the repository around `folder`, and whether files differ from it; None outside a repository."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
