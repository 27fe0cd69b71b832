"""Files give what their classifiers give, in either runtime, at any batch size and for networks of every family."""

import copy
import functools
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from conftest import settings_of
from tiny_classifier import CLASSES, SIZES, fitted, images, padded, squashed, tiny_classifier
from torch import nn
from torchvision.models import ConvNeXt, EfficientNet, ResNet, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.resnet import Bottleneck

import headstart.export.onnx
from headstart.backbones.backbone import load_backbone
from headstart.config.model import EncoderSettings, ExportSettings
from headstart.errors import HeadstartError
from headstart.export import write
from headstart.export.model_file import open_model
from headstart.export.onnx import to_onnx
from headstart.export.write import Difference, export, trace
from headstart.files import MARKER, RUN, mark
from headstart.model.checkpoint import Ensemble
from headstart.model.image_classifier import ImageClassifier
from headstart.predict.predictor import Predictor
from headstart.run_folder import RunFolder

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
timm_layers = pytest.importorskip("timm.layers")
# To export takes seconds.
pytestmark = pytest.mark.slow


def exported(classifier: ImageClassifier, folder: Path, **settings: Any) -> list[Path]:
    defaults: dict[str, Any] = {"format": "onnx", "precision": "float32", "input": "model", "path": None}
    return export(classifier, RunFolder(folder), ExportSettings(**(defaults | settings)))


@pytest.fixture(scope="module", autouse=True)
def conversions_listed_once() -> Iterator[None]:
    """PyTorch takes a second to list the operators that it can convert, which it does for each export."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib)))
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same classifier in both formats."""
    return exported(averaging(), tmp_path_factory.mktemp("tiny"), format="all")


def averaging() -> ImageClassifier:
    """A tiny classifier whose head is an MLP and ridge regression."""
    return tiny_classifier("mean")


def assert_same(path: Path, classifier: ImageClassifier) -> None:
    """The file gives what the classifier gives, for batches of several sizes."""
    model = open_model(path)
    for count in (1, 2, 5):
        with torch.no_grad():
            features = classifier.embed(images(count, seed=count))
            expected, scores = classifier.predict_proba(features), classifier.familiarity(features)
        probabilities, familiarity = model(images(count, seed=count).numpy())
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)
        np.testing.assert_allclose(familiarity, scores, atol=1e-5)


# A process of its own: OpenVINO closes what pytest captures its output with.
BY_OPENVINO = """
import sys, numpy, openvino
model = openvino.compile_model(openvino.convert_model(sys.argv[1]), "CPU")
numpy.save(sys.argv[3], model(numpy.load(sys.argv[2]))["probabilities"])
"""


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
@pytest.mark.parametrize("count", [1, 3])
def test_export__is_read_by_openvino(count: int, tiny: list[Path], tmp_path: Path) -> None:
    classifier, pixels = averaging(), images(count, seed=count)
    np.save(tmp_path / "images.npy", pixels.numpy())
    files = map(str, (tiny[0], tmp_path / "images.npy", tmp_path / "out.npy"))
    subprocess.run([sys.executable, "-c", BY_OPENVINO, *files], check=True, capture_output=True)
    with torch.no_grad():
        expected = classifier.predict_proba(classifier.embed(pixels))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-4)


def test_export__gives_the_same_at_any_batch_size(tiny: list[Path]) -> None:
    assert [path.name for path in tiny] == ["model.onnx", "model.pt2"]
    assert sorted(tiny[0].parent.iterdir()) == tiny
    for path in tiny:
        assert_same(path, averaging())


class Sum(nn.Module):
    """The sums of the scores of several heads."""

    def __init__(self, *heads: str) -> None:
        super().__init__()
        self.heads = nn.ModuleList([tiny_classifier(head).head[0] for head in heads])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([head(features) for head in self.heads]).sum(0)


# Besides those of the tiny classifier. Neighbours are exported in a way of their own.
@pytest.mark.parametrize("heads", ["knn", "linear logistic"])
def test_export__every_head(heads: str, tmp_path: Path) -> None:
    first, *others = heads.split()
    classifier = tiny_classifier(first)
    if others:
        classifier.head[0] = Sum(first, *others)
    for path in exported(classifier, tmp_path, format="all"):
        assert_same(path, classifier)


class Families(nn.Module):
    """Torchvision's networks with a block or two of each kind, because an export takes time for each block."""

    def __init__(self) -> None:
        super().__init__()
        residual = ResNet(Bottleneck, [1, 1, 1, 1])
        residual.layer3, residual.layer4, residual.fc = nn.Identity(), nn.Identity(), nn.Linear(512, 8)
        transformer = VisionTransformer(64, 16, num_layers=1, num_heads=3, hidden_dim=192, mlp_dim=384, num_classes=8)
        # At first, it is 0.
        nn.init.normal_(transformer.heads.head.weight)
        efficient = EfficientNet([MBConvConfig(6, 5, 2, 32, 24, 1)], 0.2, num_classes=8)
        convolutional = ConvNeXt([CNBlockConfig(96, 192, 1), CNBlockConfig(192, None, 1)], 0.0, 1.0, num_classes=8)
        # As networks of timm that come from TensorFlow.
        padded = timm_layers.create_conv2d(3, 8, 3, stride=2, padding="same")
        same = nn.Sequential(padded, nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.networks = nn.ModuleList([residual, transformer, efficient, convolutional, same])
        # It is cut off, as of every network.
        self.fc = nn.Linear(40, 1000)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        # Of one size, so that none of them hides another.
        features = [nn.functional.layer_norm(network(batch), (8,)) for network in self.networks]
        scores: torch.Tensor = self.fc(torch.cat(features, 1))
        return scores


def test_export__networks_of_every_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.models, "get_model", lambda name, weights: Families())
    sizes = ("data.image_size=64", "data.resize_size=64")
    settings = settings_of("data=folder", "data.root=x", "model.arch=resnet18", "model.weights=null", *sizes)
    classifier = fitted(load_backbone(settings.model, settings.data, seed=0))
    for path in exported(classifier, tmp_path, format="all"):
        compared = open_model(path).info.compared
        assert compared is not None
        assert compared["images"] == 10
        assert compared["probability"] <= 1e-4


def test_export__says_what_it_is(tiny: list[Path]) -> None:
    classifier = averaging()
    for path in tiny:
        info = open_model(path).info
        assert (info.classes, info.preprocessing) == (CLASSES, SIZES)
        assert info.familiarity_threshold == pytest.approx(float(classifier.familiarity.threshold))
        assert (info.arch, info.seed) == ("tiny", 3)
        assert info.weights_sha256 == classifier.recipe.backbone.sha256
        assert info.temperature == pytest.approx(0.7)
        assert info.compared is not None
        assert info.compared["images"] == 10
        assert info.compared["of"].startswith("drawn images, because ")
    properties = {entry.key: json.loads(entry.value) for entry in onnx.load(tiny[0]).metadata_props}
    assert properties["classes"] == list(CLASSES)
    assert properties["preprocessing"]["interpolation"] == "bilinear"


def test_export__onnx_models_can_be_read_by_runtimes_of_2024(tiny: list[Path]) -> None:
    """ONNX Runtime 1.18 reads the IR version 10 and the operators of version 21 at most."""
    model = onnx.load(tiny[0])
    assert model.ir_version <= 10
    assert all(entry.version <= 21 for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def test_export__leaves_the_classifier_as_it_was() -> None:
    classifier = tiny_classifier("knn")
    before = {key: value.clone() for key, value in classifier.state_dict().items()}
    trace(classifier, half=True)
    after = classifier.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) and value.dtype == after[key].dtype for key, value in before.items())


def test_export__of_a_classifier_that_runs_in_bf16_is_in_float32(tmp_path: Path) -> None:
    classifier = tiny_classifier()
    in_bf16 = ImageClassifier(classifier.backbone, classifier.recipe, EncoderSettings(precision="bf16", compile=False))
    in_bf16.load_state_dict(classifier.state_dict())
    (path,) = exported(in_bf16.eval(), tmp_path, format="pt2")
    assert_same(path, classifier)


def test_float16__rounds_the_backbone_and_says_how_much(tmp_path: Path, messages: list[str]) -> None:
    (path,) = exported(tiny_classifier(), tmp_path, precision="float16")
    info = open_model(path).info
    assert (path.name, info.precision) == ("model.float16.onnx", "float16")
    assert info.compared is not None
    assert 0 < info.compared["probability"] < 0.01
    assert "% have the same first class" in messages[-1]
    types = {tensor.data_type for tensor in onnx.load(path).graph.initializer}
    assert {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT} <= types


def test_int8__needs_training_images(tmp_path: Path) -> None:
    with pytest.raises(HeadstartError, match=r"export.precision=int8 .* is not the folder of a finished run"):
        exported(tiny_classifier(), tmp_path, precision="int8")
    assert not list(tmp_path.iterdir())


def test_any_size__resizes_as_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # They differ in what is put before the network only.
    network = to_onnx(trace(tiny_classifier(), half=False))
    monkeypatch.setattr(write, "trace", lambda classifier, half: None)
    monkeypatch.setattr(headstart.export.onnx, "to_onnx", lambda program: copy.deepcopy(network))
    # The first crops an odd number of pixels.
    every = (replace(SIZES, resize_size=25), squashed(), padded(), replace(SIZES, interpolation="nearest"))
    for number, sizes in enumerate(every):
        (path,) = exported(tiny_classifier(sizes=sizes), tmp_path / str(number), input="any")
        info = open_model(path).info
        assert (path.name, info.input) == ("model.any.onnx", "any")
        assert info.compared is not None
        assert info.compared["probability"] < 0.01, sizes


def test_difference__is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = tmp_path / "model.pt2"
    earlier.write_text("an earlier one")
    mark(tmp_path, RUN)
    program = trace(tiny_classifier(), half=False)
    monkeypatch.setattr(write, "trace", lambda classifier, half: program)
    for far in (Difference(1, "x", 2e-4, 0.0, 1.0), Difference(1, "x", 0.0, float("nan"), 1.0)):
        monkeypatch.setattr(write, "measure_difference", lambda *_, far=far: far)
        with pytest.raises(HeadstartError, match=r"model.pt2 was not written, because it differs from the checkpoint"):
            exported(tiny_classifier(), tmp_path, format="pt2")
        assert {path.name for path in tmp_path.iterdir()} == {MARKER, earlier.name}
        assert earlier.read_text() == "an earlier one"


def test_network_that_cannot_be_traced__is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = tiny_classifier()
    forward = classifier.backbone.network.forward

    def data_dependent(batch: torch.Tensor) -> torch.Tensor:
        return forward(batch) if batch.sum() > 0 else batch.mean((2, 3))

    monkeypatch.setattr(classifier.backbone.network, "forward", data_dependent)
    with pytest.raises(HeadstartError, match=r"^model.arch=tiny cannot be exported: .+"):
        exported(classifier, tmp_path)


def test_ensemble__is_not_exported(tmp_path: Path) -> None:
    predictor = Predictor(Ensemble([tiny_classifier(), tiny_classifier("linear")]), torch.device("cpu"))
    with pytest.raises(HeadstartError, match="an ensemble cannot be exported"):
        predictor.export(tmp_path / "a.onnx")


@pytest.mark.parametrize("name", ["a.onnx", "a.pt2"])
def test_open__file_of_somebody_else(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(HeadstartError, match="does not exist"):
        open_model(path)
    path.write_text("no model")
    with pytest.raises(HeadstartError, match="is damaged, or not a model file"):
        open_model(path)


def test_open__onnx_model_without_metadata(tiny: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    model = onnx.load(tiny[0])
    onnx.helper.set_model_props(model, {"author": "somebody"})
    onnx.save(model, path)
    with pytest.raises(HeadstartError, match="is not a model that headstart exported"):
        open_model(path)
    onnx.helper.set_model_props(model, {"format": "99", "headstart": '"9.0"'})
    onnx.save(model, path)
    with pytest.raises(HeadstartError, match=r"was written by a newer version of headstart \(9.0\)"):
        open_model(path)
