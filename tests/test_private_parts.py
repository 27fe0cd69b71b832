"""Parts of libraries that are not public, used where there is no public way: a test fails when one of them changes.

Compiled networks call AOTInductor's C interface, which tests/features/test_compiled.py runs.
"""

import signal
from typing import Any

import pytest
import torch
import torchvision
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import RichProgressBar
from torch import nn

from headstart.backbones.torchvision import _tokens
from headstart.training.callbacks.ema import EMA
from headstart.training.callbacks.progress import RichBar


def test_lightning__what_it_does_on_sigterm_can_be_replaced() -> None:
    trainer, calls = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), []
    connector = trainer._signal_connector
    assert callable(connector._sigterm_notifier_fn)
    connector._sigterm_notifier_fn = lambda *arguments: calls.append("ours")  # type: ignore[method-assign]
    before = signal.signal(signal.SIGTERM, lambda *arguments: calls.append("the program's"))
    try:
        connector.register_signal_handlers()
        signal.raise_signal(signal.SIGTERM)
        connector.teardown()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert calls == ["ours", "the program's"]


def test_lightning__the_bar_asks_for_its_description() -> None:
    assert callable(RichProgressBar._get_train_description)
    assert RichBar._get_train_description is not RichProgressBar._get_train_description


def test_lightning__the_average_has_its_model_once_there_is_one() -> None:
    average = EMA(decay=0.9)
    assert average._average_model is None
    assert average._fitted() == []


@pytest.mark.slow
def test_timm__loads_weights_by_the_models_own_load_state_dict() -> None:
    timm = pytest.importorskip("timm")
    from headstart.backbones.timm import _loaded

    original, state = nn.Module.load_state_dict, timm.create_model("resnet18").state_dict()
    del state["layer1.0.conv1.weight"]
    weights: dict[str, Any] = {"state_dict": state, "custom_load": False}
    with _loaded() as results:
        model = timm.create_model("resnet18", pretrained=True, num_classes=0, pretrained_cfg_overlay=weights)
    assert results[id(model)].missing_keys == ["layer1.0.conv1.weight"]
    assert nn.Module.load_state_dict is original


def test_torchvision__tokens_are_those_of_the_forward_pass() -> None:
    shape = {"image_size": 32, "patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    model = torchvision.models.VisionTransformer(**shape).eval()
    model.heads = nn.Identity()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = _tokens(model, images)
        assert tokens.shape == (2, 1 + 4, 8)
        assert torch.equal(tokens[:, 0], model(images))


def test_pytorch__says_what_the_cpu_has() -> None:
    assert isinstance(torch.cpu._is_avx512_bf16_supported(), bool)
    assert isinstance(torch.cpu._is_amx_tile_supported(), bool)


def test_pytorch__hands_tensors_to_c_and_back() -> None:
    images = torch.rand(2, 3)
    (pointer,) = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors([images])
    (again,) = torch._C._aoti.alloc_tensors_by_stealing_from_void_ptrs([pointer])
    assert torch.equal(again, images)
