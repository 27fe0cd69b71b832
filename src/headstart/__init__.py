"""Transfer learning on a folder of images: a new head on a frozen, pre-trained backbone."""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headstart.api import Ensemble, Leaderboard, Run, audit, demo, review, sweep, train
    from headstart.auditing.findings import Finding
    from headstart.errors import HeadstartError
    from headstart.predict.predictor import Predictor
    from headstart.predict.run import ExportedPredictor, load
    from headstart.predict.sources import Prediction

# Before torch is imported: while they wait for each other, OpenMP's threads would spin, and on a machine that other
# programs use too, the thread they wait for may not be running.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Before onnxruntime is: it would report on its use, by threads for which a forked process waits forever when it ends.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "Ensemble",
    "ExportedPredictor",
    "Finding",
    "HeadstartError",
    "Leaderboard",
    "Prediction",
    "Predictor",
    "Run",
    "audit",
    "demo",
    "load",
    "review",
    "sweep",
    "train",
]
# Imported when they are used, because torch takes seconds.
_MODULES = {
    **dict.fromkeys(("Ensemble", "Leaderboard", "Run", "audit", "demo", "review", "sweep", "train"), "headstart.api"),
    "Finding": "headstart.auditing.findings",
    "HeadstartError": "headstart.errors",
    "Prediction": "headstart.predict.sources",
    "ExportedPredictor": "headstart.predict.run",
    "Predictor": "headstart.predict.predictor",
    "load": "headstart.predict.run",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'headstart' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
