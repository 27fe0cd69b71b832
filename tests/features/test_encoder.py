import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from headstart.backbones.backbone import Backbone
from headstart.backbones.provider import Network, find_stages
from headstart.data.preprocessing import Preprocessing
from headstart.features import encoder as module
from headstart.features.compiled import FILE, CompiledModel, Unusable, compiled_program
from headstart.features.encoder import CPU_CHUNK, Encoder
from headstart.files import cache_folder
from headstart.log import log_to_console

SIZES = Preprocessing(resize_size=16, image_size=16, mean=(0, 0, 0), std=(1, 1, 1))


class Tiny(nn.Module):
    """A network that records the shapes it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.shapes.append(tuple(images.shape))
        return self.norm(self.conv(images)).mean((2, 3))


def tiny_backbone() -> Backbone:
    return Backbone(Network(Tiny(), 4, "fc", None, "none 1", SIZES, None), SIZES, "tiny", "default", 0, find_stages)


def encoder_of(
    backbone: Backbone | None = None, *, precision: str = "32", compile: bool | str = False, images: int = 1
) -> Encoder:
    """An encoder, prepared for `images` images."""
    encoder = Encoder(backbone or tiny_backbone(), precision=precision, compile=compile)
    encoder.prepare(images)
    return encoder


def shapes_of(encoder: Encoder) -> list[tuple[int, ...]]:
    return cast(Tiny, encoder.backbone.network).shapes


def random_images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)


@pytest.mark.parametrize("count", [1, CPU_CHUNK, 3 * CPU_CHUNK + 1])
def test_forward__equals_the_backbone(count: int) -> None:
    encoder, images = encoder_of(), random_images(count)
    with torch.no_grad():
        expected = encoder.backbone(images)
    features = encoder(images)
    assert torch.allclose(features, expected, atol=1e-6)
    assert features.dtype == torch.float32
    assert not features.requires_grad


def test_forward__in_chunks_on_a_cpu() -> None:
    encoder = encoder_of()
    encoder(random_images(2 * CPU_CHUNK + 3))
    # In threads, so in any order.
    assert sorted(shape[0] for shape in shapes_of(encoder)) == [3, CPU_CHUNK, CPU_CHUNK]


def test_forward__with_unfrozen_stages_has_gradients_and_one_call() -> None:
    encoder = encoder_of()
    encoder.backbone.unfreeze(len(encoder.backbone.stages), batch_norm=False)
    shapes_of(encoder).clear()
    features = encoder(random_images(2 * CPU_CHUNK + 3))
    assert features.requires_grad
    assert [shape[0] for shape in shapes_of(encoder)] == [2 * CPU_CHUNK + 3]


def test_bf16__is_close_to_float32() -> None:
    images, backbone = random_images(5), tiny_backbone()
    exact, close = (encoder_of(backbone, precision=p)(images) for p in ("32", "bf16"))
    assert close.dtype == torch.float32
    assert not torch.equal(exact, close)
    assert torch.allclose(exact, close, atol=0.02)
    assert torch.equal(close.half().float(), close), "float16 loses nothing of what bf16 computed"


def test_precision__auto_is_what_the_hardware_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, "bf16"), (False, "32")):
        monkeypatch.setattr(module, "has_fast_bf16", lambda device, has=has: has)
        assert encoder_of(precision="auto").precision == expected


def test_encode_chunk__gives_the_rows_that_forward_gives() -> None:
    encoder, images = encoder_of(), random_images(2 * CPU_CHUNK + 3)
    found = torch.cat([encoder.encode_chunk(chunk) for chunk in images.split(CPU_CHUNK)])
    assert torch.equal(found, encoder(images))
    assert not found.requires_grad


def test_compile__auto_only_where_it_saves_time() -> None:
    # As many pixels as 4,000 images of 224 × 224.
    assert not encoder_of(compile="auto", images=783_999).compiles
    assert encoder_of(compile="auto", images=784_000).compiles
    without_batch_norm = tiny_backbone()
    without_batch_norm.network.norm = nn.Identity()
    assert not encoder_of(without_batch_norm, compile="auto", images=1_000_000).compiles
    assert encoder_of(without_batch_norm, compile=True).compiles


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled__equals_eager_with_one_shape_and_the_same_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[object, ...]] = []

    def remember(*args: Any) -> CompiledModel:
        made.append(args)
        return compiled_program(*args)

    monkeypatch.setattr(module, "compiled_program", remember)
    backbone, images = tiny_backbone(), random_images(CPU_CHUNK + 3)
    eager = encoder_of(backbone)
    keys, expected = list(eager.state_dict()), eager(images)
    for encoder in (encoder_of(backbone, compile=True), encoder_of(backbone, compile=True)):
        encoder.warm_up(images.shape[-1])
        shapes_of(encoder).clear()
        assert torch.allclose(encoder(images), expected, atol=1e-5)
        assert torch.allclose(encoder(images[:1]), expected[:1], atol=1e-5)
        assert shapes_of(encoder) == [], "the compiled code ran"
        assert list(encoder.state_dict()) == keys
    assert len(made) == 1, "one shape, compiled once for both encoders"


def test_compile__without_a_compiler_warns_once_and_runs_uncompiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log_to_console()
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    encoder, images = encoder_of(compile=True), random_images(2 * CPU_CHUNK)
    with torch.no_grad():
        expected = encoder.backbone.forward(images)
    for _ in range(2):
        assert torch.allclose(encoder(images), expected, atol=1e-6)
    assert capsys.readouterr().err.count("warning: compilation failed, the backbone runs uncompiled: ") == 1
    encoder.prepare(1)
    assert not encoder.compiles
    assert not encoder_of(encoder.backbone, compile=True).compiles, "known to other encoders of the same backbone"
    assert encoder_of(compile="auto", images=1_000_000).compiles, "not remembered: there may be one tomorrow"


def test_compile__what_cannot_be_used_is_not_compiled_by_every_process(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: object) -> CompiledModel:
        raise Unusable("no")

    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "compiled_program", fail)
    encoder = encoder_of(compile="auto", images=1_000_000)
    encoder.warm_up(16)
    assert not encoder.compiles
    assert not encoder_of(compile="auto", images=1_000_000).compiles


@pytest.fixture
def compiles_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[float], list[str]]:
    """Makes compilation a no-op, and compiled code so many times as fast."""
    compiled: list[str] = []
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))

    def choose(speed: float) -> list[str]:
        def compile_it(backbone: Backbone, *_: object) -> CompiledModel:
            compiled.append(backbone.source.arch)
            return backbone.forward

        seconds = itertools.cycle([speed, 1.0])
        monkeypatch.setattr(module, "compiled_program", compile_it)
        monkeypatch.setattr("headstart.features.compiled.timeit", lambda run, number: (run(), next(seconds))[1])
        return compiled

    return choose


def test_compile__not_again_where_compiled_code_was_slower(compiles_to: Callable[[float], list[str]]) -> None:
    compiled = compiles_to(0.94)
    encoder, images = encoder_of(compile="auto", images=1_000_000), random_images(3)
    expected = encoder_of(encoder.backbone, images=1)(images)
    encoder.warm_up(32)
    assert (compiled, encoder.compiles) == (["tiny"], False)
    assert torch.equal(encoder(images), expected)
    assert not encoder_of(compile="auto", images=1_000_000).compiles, "known to this machine"
    forced = encoder_of(compile=True)
    forced.warm_up(32)
    assert forced.compiles


def test_compile__for_each_size_of_images(compiles_to: Callable[[float], list[str]]) -> None:
    compiled = compiles_to(2.0)
    encoder = encoder_of(compile=True)
    for size in (16, 20, 16):
        encoder(torch.zeros(2, 3, size, size, dtype=torch.uint8))
    assert compiled == ["tiny", "tiny"]


def test_prepare__what_is_compiled_already_is_used_for_fewer_images(
    compiles_to: Callable[[float], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiles_to(2.0)
    for is_kept, images, expected in ((False, 100_000, False), (True, 100_000, True), (True, 100, False)):
        monkeypatch.setattr(module, "is_compiled", lambda *_, is_kept=is_kept: is_kept)
        encoder = encoder_of(compile="auto")
        encoder.prepare(images, or_kept=True)
        assert encoder.compiles == expected
        encoder.prepare(images)
        assert not encoder.compiles


def test_compile__measured_once_where_compiled_code_is_faster(compiles_to: Callable[[float], list[str]]) -> None:
    compiled = compiles_to(1.2)
    for _ in range(2):
        encoder = encoder_of(compile="auto", images=1_000_000)
        encoder.warm_up(32)
        assert encoder.compiles
    assert compiled == ["tiny", "tiny"]
    assert list(json.loads((cache_folder() / FILE).read_text()).values()) == [1.2]


def test_compile__damaged_record_is_measured_again(compiles_to: Callable[[float], list[str]]) -> None:
    compiles_to(0.5)
    for damaged in ("{", "[1]", '{"tiny": "fast"}'):
        (cache_folder() / FILE).write_text(damaged)
        encoder = encoder_of(compile="auto", images=1_000_000)
        encoder.warm_up(32)
        assert not encoder.compiles
