import shutil

import pytest
import torch
from torch import Tensor, nn

from headstart.features import encoder as module
from headstart.features.encoder import CPU_CHUNK, Encoder


class Tiny(nn.Module):
    """A backbone whose calls are counted by their shapes."""

    embedding_dim = 4
    freed = 0

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.shapes: list[tuple[int, ...]] = []
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            self.shapes.append(tuple(images.shape))
        return self.norm(self.conv(images.float() / 255)).mean((2, 3))


def pictures(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8)


def make(**options) -> Encoder:
    return Encoder(Tiny(), **{"precision": "32", "compile": False} | options)


@pytest.mark.parametrize("count", [1, CPU_CHUNK, 3 * CPU_CHUNK + 1])
def test_forward__equals_the_backbone(count: int) -> None:
    encoder, images = make(), pictures(count)
    with torch.no_grad():
        expected = encoder.backbone(images)
    features = encoder(images)
    assert torch.allclose(features, expected, atol=1e-6)
    assert features.dtype == torch.float32
    assert not features.requires_grad


def test_forward__small_pieces_on_a_processor() -> None:
    encoder = make()
    encoder(pictures(2 * CPU_CHUNK + 3))
    assert [shape[0] for shape in encoder.backbone.shapes] == [CPU_CHUNK, CPU_CHUNK, 3]


def test_bf16__is_near() -> None:
    images = pictures(5)
    tiny = Tiny()
    exact, near = (Encoder(tiny, precision=p, compile=False)(images) for p in ("32", "bf16"))
    assert near.dtype == torch.float32
    assert not torch.equal(exact, near)
    assert torch.allclose(exact, near, atol=0.02)
    assert torch.equal(near.half().float(), near), "float16 loses nothing of what bf16 computed"


def test_precision__auto_is_what_the_hardware_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, expected in ((True, "bf16"), (False, "32")):
        monkeypatch.setattr(module, "has_fast_bf16", lambda device, has=has: has)
        assert make(precision="auto").precision == expected


def test_encode__all_batches_in_order() -> None:
    encoder = make()
    batches = [pictures(3), pictures(8), pictures(1)]
    found = list(encoder.encode(iter(batches)))
    assert [len(features) for features in found] == [3, 8, 1]
    assert torch.allclose(torch.cat(found), encoder(torch.cat(batches)), atol=1e-6)
    assert list(encoder.encode([])) == []


def test_compile__auto_only_where_it_is_repaid() -> None:
    encoder = make(compile="auto")
    encoder.prepare(100)
    assert not encoder.compiles
    encoder.prepare(100_000)
    assert encoder.compiles


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_compiled__equals_eager_with_one_shape_and_the_same_keys() -> None:
    encoder = make(compile=True)
    keys, images = list(encoder.state_dict()), pictures(CPU_CHUNK + 3)
    expected = encoder(images)
    encoder.backbone.shapes.clear()
    encoder.prepare(1)
    assert torch.allclose(encoder(images), expected, atol=1e-5)
    assert torch.allclose(encoder(images[:1]), expected[:1], atol=1e-5)
    assert encoder.backbone.shapes == [], "the compiled code ran"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1, "padding keeps one shape"
    assert list(encoder.state_dict()) == keys


def test_compile__without_a_compiler_warns_once_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", lambda: "no-such-compiler")
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    encoder, images = make(compile=True), pictures(2 * CPU_CHUNK)
    with torch.no_grad():
        expected = encoder.backbone(images)
    encoder.prepare(1)
    for _ in range(2):
        assert torch.allclose(encoder(images), expected, atol=1e-6)
    assert capsys.readouterr().err.count("warning: the backbone runs uncompiled") == 1
    encoder.prepare(1)
    assert not encoder.compiles
