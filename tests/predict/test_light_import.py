"""PyTorch's compiler is imported by what uses it, and then works as ever."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys
import torch
from headstart.predict.run import compiler_when_needed

with compiler_when_needed():
    import torchvision
    from torchvision.transforms import v2
assert not any(name.startswith("torch._dynamo") for name in sys.modules)

# Without the compiler, all of torchvision works; then one of its operators asks for it.
image = torchvision.tv_tensors.Image(torch.arange(48, dtype=torch.uint8).reshape(3, 4, 4))
flipped = v2.functional.hflip(image)
assert type(flipped) is torchvision.tv_tensors.Image and torch.equal(flipped, image.flip(2))
assert type(torchvision.tv_tensors.wrap(flipped + 1, like=image)) is torchvision.tv_tensors.Image
assert "torch._dynamo" not in sys.modules
boxes = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0]])
assert torchvision.ops.roi_align(torch.ones(1, 1, 4, 4), boxes, 2).shape == (1, 1, 2, 2)

compiled = torch.compile(lambda images: v2.functional.hflip(images) * 2, backend="eager")
assert torch.equal(compiled(image), flipped * 2)
assert sys.modules["torch._dynamo"].__spec__ is not None
"""
WITHIN = """
import sys
import torch
from headstart.predict.run import compiler_when_needed

with compiler_when_needed():
    from torch._dynamo import OptimizedModule
    import torchvision
assert isinstance(torch.compile(torch.nn.ReLU(), backend="eager"), OptimizedModule)

real = sys.modules["torch._dynamo"]
with compiler_when_needed():
    assert sys.modules["torch._dynamo"] is real
"""
DECORATOR = """
import sys
import torch
from headstart.predict.run import compiler_when_needed

with compiler_when_needed():
    @torch.compiler.disable(recursive=False)
    def twice(x):
        return 2 * x

    @torch.compiler.disable
    def thrice(x):
        return 3 * x
one = torch.ones(2)
assert torch.equal(torch.compile(lambda x: twice(x) + thrice(x), backend="eager")(one), 5 * one)
"""
FAILED = """
import sys
from headstart.predict.run import compiler_when_needed

try:
    with compiler_when_needed():
        import no_such_module
except ImportError:
    pass
import torch._dynamo
assert torch._dynamo.__spec__ is not None
"""
PREDICTS = """
import sys
sys.argv = ["predict.py", *sys.argv[1:]]
from headstart.cli.main import PREDICT, start
start(PREDICT)
assert not any(name.startswith("torch._dynamo") for name in sys.modules)
"""


def run(program: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)


@pytest.mark.parametrize("program", [PROGRAM, WITHIN, DECORATOR, FAILED])
def test_compiler__works_once_it_is_needed(program: str) -> None:
    run(program)


def test_prediction__does_without(trained: Path, tmp_path: Path) -> None:
    run(PREDICTS, f"ckpt_path={trained}", f"source={trained.parent / 'images'}", f"output={tmp_path / 'out'}")
