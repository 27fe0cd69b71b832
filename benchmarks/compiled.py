"""Compiled backbones: seconds to compile one, seconds to load it in a later process, images/s with and without it.

python benchmarks/compiled.py
"""

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from common import ROOT, empty_caches, save

ARCHS = ("resnet50", "mobilenet_v2")
REPEATS = 5


def measure(arch: str) -> dict[str, Any]:
    """In this process."""
    # Their imports are no part of it.
    import torch

    from headstart.backbones.backbone import Backbone
    from headstart.backbones.provider import Choice
    from headstart.backbones.torchvision import PROVIDER
    from headstart.features.encoder import CPU_CHUNK, Encoder

    network = PROVIDER.load(Choice(arch, None), 0)
    backbone = Backbone(network, network.preset, arch, "default", 0, PROVIDER.find_stages)
    encoder = Encoder(backbone, precision="auto", compile=True)
    encoder.prepare(1)
    size = backbone.preprocessing.image_size
    start = time.perf_counter()
    encoder.warm_up(size)
    ready = time.perf_counter() - start
    images = torch.randint(0, 256, (4 * CPU_CHUNK, 3, size, size), dtype=torch.uint8)
    uncompiled = Encoder(backbone, precision="auto", compile=False)
    rates: dict[str, list[float]] = {"compiled": [], "uncompiled": []}
    for _ in range(REPEATS):
        for name, of in (("compiled", encoder), ("uncompiled", uncompiled)):
            start = time.perf_counter()
            of(images)
            rates[name].append(len(images) / (time.perf_counter() - start))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {"precision": encoder.precision, "ready": ready, "images_per_second": medians}


def in_process(arch: str, environment: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, __file__, arch]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> None:
    figures = {}
    for arch in ARCHS:
        with empty_caches() as environment:
            first, later = (in_process(arch, environment) for _ in range(2))
        seconds = {"compile": first.pop("ready"), "load": later.pop("ready")}
        figures[arch] = {"seconds": seconds} | later
    save("compiled", **figures)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
