"""The frozen forward pass: the one place for precision, memory layout, compilation and the shape of a call."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from headstart.backbones.backbone import Backbone, state_sha256
from headstart.features.compiled import (
    CompilationFailed,
    CompiledModel,
    Unusable,
    compiled_program,
    is_compiled,
    keep_speed,
    measure_speed,
    measured_speed,
)
from headstart.log import log
from headstart.machine import cpu_name
from headstart.processes import thread_imap, thread_map

Result = TypeVar("Result")
# Images per call on a CPU: their activations stay in its caches, and only one shape is compiled.
CPU_CHUNK = 8
# The number of images of USUAL_SIZE pixels from which compilation takes less time than it saves, on CPUs.
REPAYS_COMPILATION = 4000
# That from which loading what was compiled earlier does.
REPAYS_LOADING = 150
USUAL_SIZE = 224


class Encoder(nn.Module):
    """Runs a frozen backbone fast: uint8 images (N, 3, H, W) → float32 features (N, embedding_dim).

    A backbone with unfrozen stages runs as it is: with gradients, in the caller's precision.

    Args:
        precision: "32", "bf16" (autocast), or "auto": bf16 if the hardware has it.
        compile: True, False, or "auto": if the number of images announced to `prepare` repays it, and compiled code is
            faster on this machine.
    """

    def __init__(self, backbone: Backbone, *, precision: str, compile: bool | str) -> None:
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.embedding_dim = backbone.embedding_dim
        self.compiles = False
        self._precision = precision
        self._compile = compile
        self.eval()

    def train(self, mode: bool = True) -> "Encoder":
        super().train(False)
        # The backbone itself knows which of its stages are frozen.
        self.backbone.train(mode)
        return self

    @property
    def device(self) -> torch.device:
        """Returns the device of the backbone and of the features."""
        return next(self.backbone.parameters()).device

    @property
    def precision(self) -> str:
        """Returns "bf16" or "32", as resolved for the device."""
        if self._precision != "auto":
            return self._precision
        return "bf16" if has_fast_bf16(self.device) else "32"

    def prepare(self, images: int, *, or_kept: bool = False) -> None:
        """Decides whether to compile, for a job that encodes `images` images in total.

        Compiled and eager code round differently, so the number should not depend on how much was encoded before. With
        `or_kept`, what earlier processes have compiled is used if loading it takes less time than it saves.
        """
        wanted = self._repays(images, or_kept) if self._compile == "auto" else bool(self._compile)
        self.compiles = wanted and not self.backbone.stays_uncompiled

    def warm_up(self, image_size: int) -> None:
        """Gets the compiled backbone, if that was decided and has not happened yet, for images of `image_size` pixels.

        If it fails, for example without a C++ compiler, a warning says so and the backbone runs uncompiled.
        """
        if not self.compiles or self._program_key(image_size) in self.backbone.programs:
            return
        # They would announce that there is no CUDA, and where the files of a failed compilation are.
        for name in ("torch.utils.cpp_extension", "torch._inductor.utils"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self.backbone.programs[self._program_key(image_size)] = self._compiled(image_size)
        except (CompilationFailed, torch._dynamo.exc.TorchDynamoException) as error:
            reason = str(error).strip().splitlines()[0]
            log.warning("compilation failed, the backbone runs uncompiled: %s", reason)
            if isinstance(error, Unusable):
                # So that not every process compiles it in vain.
                keep_speed(self._speed_key, 0.0)
            self._stay_uncompiled()
        if self.compiles and self._compile == "auto" and measured_speed(self._speed_key) is None:
            self._compare_speed(image_size)

    def forward(self, images: Tensor) -> Tensor:
        images = images.to(self.device, non_blocking=True)
        if self.backbone.unfrozen:
            return self.backbone.forward(images.contiguous(memory_format=torch.channels_last))
        self.warm_up(images.shape[-1])
        if self.device.type == "cpu":
            # Image-parallel: threads that share one image would wait for each other after every operation.
            return torch.cat(thread_map(self.encode_chunk, images.split(CPU_CHUNK)))
        return self.encode_chunk(images)

    @property
    def _speed_key(self) -> str:
        source, size = self.backbone.source, self.backbone.preprocessing.image_size
        network = f"{source.arch}, pooling {source.pooling}, {size} pixels, {self.precision}, {source.library}"
        return f"{network}, torch {torch.__version__}, {cpu_name()}"

    def _repays(self, images: int, or_kept: bool) -> bool:
        if self.device.type != "cpu" or not self._may_gain:
            return False
        size = self.backbone.preprocessing.image_size
        usual_images = images * size**2 / USUAL_SIZE**2
        if usual_images >= REPAYS_COMPILATION:
            return True
        if not or_kept or usual_images < REPAYS_LOADING:
            return False
        is_loaded = self._program_key(size) in self.backbone.programs
        return is_loaded or is_compiled(self._example_shape(size), self.precision, self._identity)

    @property
    def _may_gain(self) -> bool:
        """Whether there is BatchNorm, which becomes part of the convolutions, and compiled code was not slower here."""
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in self.backbone.modules())
        speed = measured_speed(self._speed_key)
        return has_batch_norm and (speed is None or speed >= 1)

    def _compare_speed(self, image_size: int) -> None:
        """Stays uncompiled if compiled code is slower."""
        uncompiled, compiled = (partial(self._run_chunk, image_size, compiled=value) for value in (False, True))
        speed = measure_speed(self._speed_key, uncompiled, compiled)
        if speed < 1:
            log.info(
                "%s runs uncompiled, because compiled code is slower on this machine (%.2f times as fast)",
                self.backbone.source.arch,
                speed,
            )
            self._stay_uncompiled()

    def _run_chunk(self, image_size: int, *, compiled: bool) -> None:
        self.compiles = compiled
        thread_map(self.encode_chunk, [self._example(image_size)])

    def _compiled(self, image_size: int) -> CompiledModel:
        if self.device.type == "cpu":
            return compiled_program(self.backbone, self._example(image_size), self.precision, self._identity)
        # On a GPU, where batches are not cut to one shape, the second shape is compiled for all.
        program: CompiledModel = torch.compile(self.backbone.forward)
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            program(self._example(image_size).to(self.device))
        return program

    def _program_key(self, image_size: int) -> tuple[int, str, str]:
        return image_size, self.precision, self.device.type

    @property
    def _identity(self) -> dict[str, Any]:
        """Returns what the compiled code depends on: the weights as they are now, perhaps fine-tuned."""
        source, preprocessing = self.backbone.source, self.backbone.preprocessing
        return {
            "arch": source.arch,
            "pooling": source.pooling,
            "cut": source.cut,
            "library": source.library,
            "state": state_sha256(self.backbone.network),
            "normalization": [preprocessing.mean, preprocessing.std],
        }

    @staticmethod
    def _example_shape(image_size: int) -> tuple[int, ...]:
        return CPU_CHUNK, 3, image_size, image_size

    def _example(self, image_size: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, self._example_shape(image_size), dtype=torch.uint8, generator=generator)
        return images.contiguous(memory_format=torch.channels_last)

    def _stay_uncompiled(self) -> None:
        self.backbone.programs.clear()
        self.backbone.stays_uncompiled, self.compiles = True, False

    @torch.no_grad()
    def encode_chunk(self, images: Tensor) -> Tensor:
        """Encodes images in the calling thread; on a CPU up to CPU_CHUNK, after `warm_up`."""
        images = images.to(self.device)
        missing = CPU_CHUNK - len(images) if self.compiles and self.device.type == "cpu" else 0
        # Each new shape would be compiled again.
        padded = F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else images
        padded = padded.contiguous(memory_format=torch.channels_last)
        run = self.backbone.programs[self._program_key(images.shape[-1])] if self.compiles else self.backbone.forward
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features: Tensor = run(padded)
        return features[: len(images)].float()


def map_batches(compute: Callable[[Any], Result], loader: DataLoader[Any], device: torch.device) -> Iterator[Result]:
    """Yields `compute(batch)` for each batch of `loader`, in order; `compute` encodes on `device`, after `warm_up`.

    On a CPU without worker processes, the batches are smaller: each core reads and encodes images of its own.
    """
    if device.type != "cpu" or loader.num_workers:
        return map(compute, loader)
    keys = list(loader.sampler)
    chunks = [keys[start : start + CPU_CHUNK] for start in range(0, len(keys), CPU_CHUNK)]
    return thread_imap(lambda chunk: compute(loader.collate_fn([loader.dataset[key] for key in chunk])), chunks)


@contextmanager
def usual_numerics() -> Iterator[None]:
    """Makes the block compute as a program of its own would, without what a surrounding notebook has set.

    That may be PyTorch's default dtype and device, an autocast or inference mode, and NumPy's warnings as errors.
    """
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with ExitStack() as stack:
            stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
            for device in ("cpu", "cuda"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            if torch.is_inference_mode_enabled():
                stack.enter_context(torch.inference_mode(False))
            # Only then: it makes every call of PyTorch a little slower.
            if torch.get_default_device() != torch.device("cpu"):
                stack.enter_context(torch.device("cpu"))
            yield
    finally:
        torch.set_default_dtype(dtype)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware itself multiplies bfloat16 matrices."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        # Private: PyTorch has no public function that says so.
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False


@contextmanager
def torch_settings_restored() -> Iterator[None]:
    """Undoes what the block changes of PyTorch's settings, as Lightning does: trainer.deterministic, for example."""
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])
