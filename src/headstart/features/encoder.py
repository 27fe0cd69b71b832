"""The fast frozen forward: one place for precision, memory layout, compilation and the shape of a call."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Pictures a call on a processor: their activations stay in its caches, and one shape is compiled once.
CPU_CHUNK = 8
# From so many pictures on, the seconds that compilation costs a process come back (on processors).
REPAYS_COMPILATION = 1500


class Encoder(nn.Module):
    """Runs a frozen `backbone` fast: uint8 pictures (N, 3, H, W) → float32 features (N, embedding_dim).

    One that has been freed in parts is run as it is, with gradients, in the caller's precision.

    Args:
        backbone: a module with that contract, an `embedding_dim`, and in `freed` the number of its stages that are not
            frozen.
        precision: "32", "bf16" (autocast), or "auto": bf16 where the hardware has it.
        compile: True, False, or "auto": where the pictures announced to `prepare` repay it.
    """

    def __init__(self, backbone: nn.Module, *, precision: str, compile: bool | str) -> None:
        super().__init__()
        self.backbone = backbone.to(memory_format=torch.channels_last)
        self.embedding_dim = int(backbone.embedding_dim)  # type: ignore[arg-type]
        self.seconds = 0.0
        self.compiles = False
        self._precision = precision
        self._compile = compile
        self._compiled = False
        self.eval()

    def train(self, mode: bool = True) -> "Encoder":
        super().train(False)
        # The backbone knows by itself what of it is frozen.
        self.backbone.train(mode)
        return self

    @property
    def device(self) -> torch.device:
        """Where the backbone is, and the features come out."""
        return next(self.backbone.parameters()).device

    @property
    def precision(self) -> str:
        """ "bf16" or "32", as resolved for the device."""
        if self._precision != "auto":
            return self._precision
        return "bf16" if has_fast_bf16(self.device) else "32"

    def prepare(self, pictures: int) -> None:
        """Decides whether to compile: if asked to, or, with "auto", if so many `pictures` repay it.

        `pictures` should be what the whole job is about, whether or not some were encoded before: compiled and eager
        code round differently, and a job that goes on should go on with the same.
        """
        if self._compile == "auto":
            self.compiles = self.device.type == "cpu" and pictures >= REPAYS_COMPILATION
        else:
            self.compiles = bool(self._compile)

    def warm_up(self, image_size: int) -> None:
        """Compiles the backbone, if that was decided and is not done yet, for pictures of `image_size` pixels.

        Where it fails, as without a C++ compiler, a warning says so and the backbone runs as it is.
        """
        if not self.compiles or self._compiled:
            return
        start, on_cpu = time.perf_counter(), self.device.type == "cpu"
        # It would announce that there is no CUDA.
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        # Freezing folds BatchNorm into the convolutions and packs their weights; inductor has it for processors. On a
        # GPU, where pictures are not cut to one shape, the second shape is compiled for all.
        self.backbone.compile(dynamic=False if on_cpu else None, options={"freezing": True} if on_cpu else {})
        try:
            self._run(torch.zeros(CPU_CHUNK, 3, image_size, image_size, dtype=torch.uint8, device=self.device))
            self._compiled = True
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            print(f"warning: the backbone runs uncompiled, compilation failed: {reason}", file=sys.stderr)
            self.backbone._compiled_call_impl = None
            self._compile, self.compiles = False, False
        self.seconds += time.perf_counter() - start

    def forward(self, images: Tensor) -> Tensor:
        if not self.backbone.freed:
            self.warm_up(images.shape[-1])
        start = time.perf_counter()
        images = images.to(self.device, non_blocking=True)
        if self.backbone.freed:
            # Not by a call, which would run what was compiled from the weights as they were.
            features = self.backbone.forward(images.contiguous(memory_format=torch.channels_last))
        elif self.device.type == "cpu":
            features = torch.cat([self._run(chunk) for chunk in images.split(CPU_CHUNK)])
        else:
            features = self._run(images)
        self.seconds += time.perf_counter() - start
        return features

    def encode(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yields the float32 features of each batch of pictures, on the CPU, in order."""
        for images in batches:
            features = self(images)
            start = time.perf_counter()
            # On a GPU the forward only queued the work; the copy waits for it.
            features = features.cpu()
            self.seconds += time.perf_counter() - start
            yield features

    @torch.no_grad()
    def _run(self, images: Tensor) -> Tensor:
        missing = CPU_CHUNK - len(images) if self._compiled and self.device.type == "cpu" else 0
        # Each new shape would be compiled anew.
        padded = F.pad(images, (0, 0, 0, 0, 0, 0, 0, missing)) if missing else images
        padded = padded.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features: Tensor = self.backbone(padded)
        return features[: len(images)].float()


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 matrices by itself."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
