"""Whether there is a GPU, asked once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Lightning sets it, so that PyTorch asks NVIDIA's driver, which leaves CUDA untouched.
ASKS_DRIVER = "PYTORCH_NVML_BASED_CUDA_CHECK"


@contextmanager
def gpus_sought_once() -> Iterator[None]:
    """Within the block, if there is no GPU, PyTorch does not look for the driver again.

    Every step of an optimizer asks whether there is a GPU, and looking takes a twentieth of a step of a new head.
    """
    before = os.environ.get(ASKS_DRIVER)
    if torch.cuda.is_available() or before is None:
        yield
        return
    os.environ[ASKS_DRIVER] = "0"
    try:
        yield
    finally:
        os.environ[ASKS_DRIVER] = before
