"""timm's models as backbones, with random weights and with weights files of the tests' own."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from headstart.backbones import timm as provider
from headstart.backbones.backbone import Backbone
from headstart.backbones.provider import Choice, Network
from headstart.config.checks import IN_TIMM, family_in_timm
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError

timm = pytest.importorskip("timm")

# One small model of each family. Those of MAIN also run here.
MAIN = {
    "resnet18": 512,
    "convnext_atto": 320,
    "vit_tiny_patch16_224": 192,
    "eva02_tiny_patch14_224": 192,
    "mobilenetv3_small_050": 1024,
    "mobilenetv4_conv_small_035": 1280,
    "tf_efficientnet_lite0": 1280,
    "regnetx_002": 368,
}
FAMILIES = [
    *MAIN,
    *("resnet50_clip", "convnextv2_atto", "deit3_small_patch16_224", "beit_base_patch16_224", "densenet121"),
    *("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "maxvit_nano_rw_256", "coatnet_nano_rw_224"),
    *("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_dinov3", "fastvit_t8"),
    *("vit_base_patch16_siglip_224", "vit_base_patch16_clip_224", "dm_nfnet_f0", "hiera_tiny_224", "volo_d1_224"),
    *("cait_xxs24_224", "xcit_nano_12_p16_224", "pvt_v2_b0", "poolformer_s12", "levit_128s", "mobilevit_xxs"),
    *("edgenext_xx_small", "tiny_vit_5m_224", "rexnet_100", "hrnet_w18_small", "ghostnet_100", "repvit_m0_9"),
    *("mambaout_femto", "inception_v4", "mixer_s32_224", "resmlp_12_224", "efficientformer_l1", "davit_tiny"),
]
VIT = "timm/vit_tiny_patch16_224"
RESNET = "timm/resnet18"


def backbone(arch: str, weights: str | None = None, pooling: str = "default", image_size: int = 64) -> Backbone:
    choice = Choice(arch, weights, pooling, image_size)
    network = provider.load(choice, 0)
    return Backbone(network, Preprocessing(image_size, image_size), arch, pooling, 0, provider.find_stages)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """Weights of a whole model, classifier included."""
    torch.manual_seed(7)
    return dict(timm.create_model("resnet18").state_dict())


def weights(found: Network) -> dict[str, Any]:
    return found.module.state_dict()


def assert_holds(found: Network, state: dict[str, Any]) -> None:
    for name, tensor in weights(found).items():
        assert torch.equal(tensor, state[name])


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_family__is_checked_without_memory_and_has_a_preset(family: str) -> None:
    found = provider.preset(f"timm/{family}", None)
    assert found.resize_size >= found.image_size >= 32
    provider.check(Choice(f"timm/{family}", None, "default", found.image_size))


@pytest.mark.slow
@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "poolformer_s12"])
def test_family__stages_cover_its_parameters(family: str) -> None:
    with torch.device("meta"):
        module = timm.create_model(family, num_classes=0)
    stages = provider.find_stages(module, torch.zeros(0))
    names = [name for stage in stages for name in stage]
    assert len(set(names)) == len(names)
    assert 3 <= len(stages) <= 9
    inside = [id(p) for name in names for p in module.get_submodule(name).parameters()]
    assert len(inside) == len(set(inside))
    # The others belong to the stage next to the input; they are tokens and position embeddings, not layers.
    assert sum(p.numel() for p in module.parameters() if id(p) not in inside) < 0.05 * sum(
        p.numel() for p in module.parameters()
    )


@pytest.mark.slow
def test_stages__of_a_family_without_groups_are_by_size() -> None:
    assert len(backbone("timm/poolformer_s12").stages) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("family", "width"), MAIN.items())
def test_embedding_dim__is_that_of_the_features(family: str, width: int) -> None:
    found = provider.load(Choice(f"timm/{family}", None), 0)
    size = found.preset.image_size
    with torch.no_grad():
        assert found.module(torch.rand(2, 3, size, size)).shape == (2, width)
    assert found.embedding_dim == width


@pytest.mark.slow
def test_random_weights__depend_on_the_seed_alone() -> None:
    first, again, other = (provider.load(Choice(RESNET, None), seed) for seed in (0, 0, 1))
    assert_holds(first, again.module.state_dict())
    assert not torch.equal(weights(first)["conv1.weight"], weights(other)["conv1.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
def test_weights_file__has_every_tensor_and_the_architectures_preset(
    wrap: str | None, state: dict[str, Any], tmp_path: Path
) -> None:
    torch.save(state if wrap is None else {wrap: state, "epoch": 3}, tmp_path / "mine.pth")
    choice = Choice(RESNET, str(tmp_path / "mine.pth"))
    provider.check(choice)
    found = provider.load(choice, 0)
    assert_holds(found, state)
    assert found.weights == str(tmp_path / "mine.pth")
    assert found.preset == provider.preset(RESNET, None)
    assert found.guess == "timm's resnet18"


@pytest.mark.slow
def test_safetensors__are_read_too(state: dict[str, Any], tmp_path: Path) -> None:
    save_file(state, tmp_path / "mine.safetensors")
    choice = Choice(RESNET, str(tmp_path / "mine.safetensors"))
    provider.check(choice)
    assert_holds(provider.load(choice, 0), state)
    (tmp_path / "mine.safetensors").write_bytes(b"nothing")
    with pytest.raises(HeadstartError, match="is damaged, or is no safetensors file"):
        provider.check(choice)


@pytest.mark.slow
def test_local_dir__has_its_own_configuration(state: dict[str, Any], tmp_path: Path) -> None:
    normalization = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5]}
    own = {"input_size": [3, 96, 96], "crop_pct": 0.75, "interpolation": "bilinear", "classifier": "fc"}
    values = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": own | normalization}
    (tmp_path / "config.json").write_text(json.dumps(values))
    save_file(state, tmp_path / "model.safetensors")
    arch = f"timm/local-dir:{tmp_path}"
    choice = Choice(arch, "default")
    provider.check(choice)
    found = provider.load(choice, 0)
    assert_holds(found, state)
    assert found.preset == Preprocessing(128, 96, "bilinear", (0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert (found.weights, found.guess) == ("default", None)
    os.unlink(tmp_path / "config.json")
    with pytest.raises(HeadstartError, match=r"could not be loaded: .*config\.json"):
        provider.check(choice)


@pytest.mark.slow
def test_other_format__goes_through_the_models_own_conversion(tmp_path: Path) -> None:
    """Here: position embeddings for another image size."""
    torch.manual_seed(3)
    larger = timm.create_model("vit_tiny_patch16_224", img_size=96).state_dict()
    torch.save(larger, tmp_path / "vit.pth")
    found = provider.load(Choice(VIT, str(tmp_path / "vit.pth"), image_size=64), 0)
    assert weights(found)["pos_embed"].shape[1] == 4 * 4 + 1
    assert torch.equal(weights(found)["blocks.0.attn.qkv.weight"], larger["blocks.0.attn.qkv.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("do", [provider.check, lambda choice: provider.load(choice, 0)])
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("layer4.1.bn2.bias"), "1 missing tensors, such as layer4.1.bn2.bias"),
        (lambda s: s.update({"layer4.2.x": torch.zeros(1)}), "1 unexpected tensors, such as layer4.2.x"),
        (lambda s: s.update({"layer1.0.bn1.bias": torch.zeros(3)}), "size mismatch for layer1.0.bn1.bias"),
    ],
)
def test_weights_file__that_does_not_fit(
    do: Any, change: Any, says: str, state: dict[str, Any], tmp_path: Path
) -> None:
    changed = dict(state)
    change(changed)
    torch.save(changed, tmp_path / "mine.pth")
    with pytest.raises(HeadstartError, match=says) as error:
        do(Choice(RESNET, str(tmp_path / "mine.pth")))
    assert "does not fit model.arch=timm/resnet18" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_weights_file__that_could_run_code(tmp_path: Path) -> None:
    torch.save({"a": Path("x")}, tmp_path / "bad.pth")
    with pytest.raises(HeadstartError, match="is rejected, because it could run code"):
        provider.load(Choice(RESNET, str(tmp_path / "bad.pth")), 0)


@pytest.mark.parametrize(
    ("arch", "weights", "says"),
    [
        ("timm/resnet5", None, "is not a timm model: did you mean timm/resnet50"),
        ("timm/resnet18", "nothing", "timm has no weights nothing for resnet18, only: a1_in1k"),
        ("timm/resnet18.nothing", None, "timm has no weights nothing for resnet18"),
        ("timm/resnet18.a1_in1k", "a2_in1k", "names its weights: model.weights=a2_in1k contradicts it"),
        ("timm/resnet18", "nothing.pth", "the weights file nothing.pth does not exist"),
        ("timm/resnet18", "bundled", "model.weights=bundled is not available for model.arch=timm/resnet18"),
        ("timm/vovnet39a", "default", "timm has no weights for model.arch=timm/vovnet39a"),
        ("timm/vit_base_patch16_sapiens2", None, "is not supported: it takes images of 3×1024×768"),
    ],
)
def test_invalid_choice__is_one_sentence(arch: str, weights: str | None, says: str) -> None:
    with pytest.raises(HeadstartError, match=says):
        provider.check(Choice(arch, weights))


@pytest.mark.parametrize(
    ("arch", "weights", "wanted"),
    [
        ("timm/tf_efficientnet_lite0", None, Preprocessing(256, 224, "bicubic", (0.5,) * 3, (0.5,) * 3)),
        ("timm/resnet50.a1_in1k", "default", Preprocessing(235, 224, "bicubic")),
        ("timm/resnet50", "tv_in1k", Preprocessing(256, 224, "bilinear")),
        ("timm/vit_small_patch14_dinov2", None, Preprocessing(518, 518, "bicubic")),
        ("timm/eva_giant_patch14_336", "clip_ft_in1k", "squash"),
    ],
)
def test_preset__belongs_to_the_weights(arch: str, weights: str | None, wanted: Preprocessing | str) -> None:
    found = provider.preset(arch, weights)
    assert found == wanted if isinstance(wanted, Preprocessing) else found.resize_mode == wanted


@pytest.mark.slow
def test_pooling__of_tokens(images: torch.Tensor) -> None:
    own, cls, avg, both = (backbone(VIT, None, kind).network for kind in ("default", "cls", "avg", "cls+avg"))
    model: Any = own
    with torch.no_grad():
        tokens = model.forward_features(images)
        assert torch.equal(cls(images), own(images))
        assert torch.equal(cls(images), tokens[:, 0])
        assert torch.equal(avg(images), tokens[:, 1:].mean(1))
        assert torch.equal(both(images), torch.cat([cls(images), avg(images)], 1))


@pytest.mark.slow
def test_pooling__that_the_model_has_itself(images: torch.Tensor) -> None:
    arch = "timm/eva02_tiny_patch14_224"
    own, average = (backbone(arch, None, kind, 56).network for kind in ("default", "avg"))
    with torch.no_grad():
        assert torch.allclose(own(images[..., :56, :56]), average(images[..., :56, :56]), atol=1e-5)
    # Its parameters are there once.
    assert len(list(own.parameters())) == len(list(average.parameters()))


@pytest.mark.parametrize(
    ("arch", "pooling", "reason"),
    [
        (RESNET, "cls", "it has no class token"),
        (RESNET, "cls+avg", "it has no class token"),
        ("timm/vit_base_patch16_siglip_224", "cls", "it has no class token"),
        ("timm/resnet50_clip", "avg", "its own pooling is another one"),
    ],
)
def test_pooling__that_does_not_suit(arch: str, pooling: str, reason: str) -> None:
    with pytest.raises(HeadstartError, match=f"does not suit model.arch={arch}: {reason}"):
        provider.check(Choice(arch, None, pooling))


@pytest.mark.slow
@pytest.mark.parametrize("arch", [VIT, "timm/swin_tiny_patch4_window7_224", RESNET])
def test_image_size__of_models_for_one_size_too(arch: str) -> None:
    found = provider.load(Choice(arch, None, image_size=96), 0)
    with torch.no_grad():
        assert found.module(torch.zeros(1, 3, 96, 96)).shape == (1, found.embedding_dim)


def test_image_size__that_the_model_rejects() -> None:
    with pytest.raises(HeadstartError, match=r"data\.image_size=8 does not suit model\.arch=timm/vit_tiny"):
        provider.load(Choice(VIT, None, image_size=8), 0)


def test_stages__of_a_residual_network_are_its_layers() -> None:
    assert backbone(RESNET).stages == [["conv1", "bn1"], ["layer1"], ["layer2"], ["layer3"], ["layer4"]]


@pytest.mark.slow
def test_stages__of_a_vision_transformer_are_equal_parts() -> None:
    wanted = [f"blocks.{block}" for block in range(12)]
    for pooling, prefix in (("default", ""), ("cls+avg", "model.")):
        stages = backbone(VIT, None, pooling).stages
        assert [name for stage in stages for name in stage if "blocks" in name] == [prefix + name for name in wanted]
        assert len(stages) == 4


def test_suggestions__exist_and_are_of_the_family() -> None:
    for family, arch in IN_TIMM.items():
        name = arch.removeprefix("timm/").partition(".")[0]
        assert timm.is_model(name)
        assert family_in_timm(f"{family}_small") is not None
    for arch in ("timm/dinov2_small", "timm/vit_smal_patch14_dinov2"):
        with pytest.raises(HeadstartError, match=r"did you mean timm/vit_small_patch14_dinov2 or .*dinov2\?"):
            provider.preset(arch, "default")
    with pytest.raises(HeadstartError, match=r"see timm.list_models"):
        provider.preset("timm/qqq", "default")


def test_load__without_a_network_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub retries for a minute, also where the server's name cannot be resolved."""

    def no_network(*arguments: Any, **keywords: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("a retry"))
    for variable in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(HeadstartError, match=r"could not be downloaded; if you have them, set model.weights=FILE"):
        provider.load(Choice(VIT, "default", "default", None), 0)
    with pytest.raises(HeadstartError, match="could not be loaded"):
        provider.preset("timm/hf-hub:nobody/nothing", None)
    assert not constants.HF_HUB_OFFLINE
