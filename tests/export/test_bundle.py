"""A bundle predicts what its checkpoint predicts, to the last bit, on a machine that has nothing but the file."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ARCH, ROOT, Script
from torch import nn

import headstart
from headstart.backbones.backbone import Backbone, restore_backbone
from headstart.backbones.torchvision import build_classifier, check_architecture
from headstart.config.model import EncoderSettings, FinetuneSettings
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError
from headstart.export.write import write_bundle
from headstart.files import ENSEMBLE, mark
from headstart.model.checkpoint import load_classifier, read_checkpoint
from headstart.model.classifier import Classifier
from headstart.run_folder import EnsembleFolder, RunFolder

PLAIN = EncoderSettings(precision="32", compile=False)
FULL = FinetuneSettings(epochs=[], lr_factors=[], rest=0, batch_norm=True, mixup=0.0, cutmix=0.0)
# Prints what a bundle gives and why its checkpoint gives nothing where the weights are hidden, and then what it gives
# with them: predictions and features, bit by bit. Any connection is an error.
PREDICTING = """
import json, os, socket, sys
def refused(*_, **__):
    raise OSError("there is no network here")
socket.socket.connect = socket.getaddrinfo = socket.create_connection = refused
import headstart
def bits(path):
    predictor = headstart.load(path, accelerator="cpu")
    rows = predictor.predict(images, topk=9)
    bits = [[row.classes, [p.hex() for p in row.probabilities], row.familiarity, row.doubt] for row in rows]
    return [bits, predictor.embed(images).tobytes().hex()]
bundle, checkpoint, images, weights = sys.argv[1:]
found = bits(bundle)
try:
    bits(checkpoint)
except headstart.HeadstartError as error:
    without = str(error)
os.rename(weights + ".hidden", weights)
print(json.dumps([found, bits(checkpoint), without]))
"""


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunFolder:
    """A copy of a finished run, whose backbone's weights are in the file `weights.pth`."""
    folder = RunFolder(Path(shutil.copytree(trained, tmp_path / "run")))
    weights = tmp_path / "weights.pth"
    torch.save(build_classifier(ARCH, seed=0).state_dict(), weights)
    checkpoint = torch.load(folder.best, weights_only=True)
    checkpoint["hyper_parameters"]["backbone"]["weights"] = str(weights)
    torch.save(checkpoint, folder.best)
    return folder


def bundled(checkpoint: Path, moved_to: str | None = None) -> Path:
    path = checkpoint.with_name("bundle.ckpt")
    write_bundle(checkpoint, path, moved_to)
    return path


def answers(path: Path, images: Path) -> list[Any]:
    predictor = headstart.load(path, accelerator="cpu")
    rows = predictor.predict(images, topk=9)
    return [
        [(row.path, row.classes, row.probabilities, row.familiarity) for row in rows],
        predictor.embed(images).tobytes(),
    ]


def test_bundle__predicts_the_same_on_a_machine_that_has_nothing_else(
    run: RunFolder, trained: Path, script: Script, tmp_path: Path
) -> None:
    result = script("train.py", "task=export", f"ckpt_path={run.path}", "export.format=bundle")
    assert result.status == 0, result.err
    images = trained.parent / "images"
    moved = tmp_path / "elsewhere" / "handed over.ckpt"
    moved.parent.mkdir()
    run.bundle.rename(moved)
    empty = tmp_path / "empty"
    empty.mkdir()
    cache = {name: str(empty) for name in ("HOME", "TORCH_HOME", "XDG_CACHE_HOME", "HEADSTART_CACHE", "HF_HOME")}
    environment = os.environ | cache | {"PYTHONPATH": str(ROOT / "src"), "http_proxy": "http://127.0.0.1:1"}

    weights = tmp_path / "weights.pth"
    weights.rename(f"{weights}.hidden")
    command = [sys.executable, "-c", PREDICTING, *map(str, (moved, run.best, images, weights))]
    done = subprocess.run(command, cwd=moved.parent, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, expected, without = json.loads(done.stdout)
    assert found == expected
    assert "weights.pth does not exist" in without


def test_bundle__holds_plain_values_and_what_predicting_takes(run: RunFolder) -> None:
    content, checkpoint = torch.load(bundled(run.best), weights_only=True), read_checkpoint(run.best)
    assert content.keys() == {"hyper_parameters", "state_dict", "versions", "epoch", "backbone"}
    assert content["hyper_parameters"] == checkpoint["hyper_parameters"]
    backbone = restore_backbone(
        load_classifier(run.best, PLAIN, None).recipe.backbone, Preprocessing(40, 32), moved_to=None
    )
    assert content["backbone"].keys() == backbone.network.state_dict().keys()
    assert all(torch.equal(content["backbone"][name], value) for name, value in backbone.network.state_dict().items())


def test_bundle__of_a_fine_tuned_classifier_has_its_weights(run: RunFolder, trained: Path, tmp_path: Path) -> None:
    frozen = load_classifier(run.best, PLAIN, None)
    classifier = Classifier(frozen.backbone, replace(frozen.recipe, finetune=FULL), PLAIN)
    with torch.no_grad():
        for parameter in classifier.parameters():
            parameter.mul_(1.01)
    checkpoint = torch.load(run.best, weights_only=True)
    checkpoint |= {"state_dict": classifier.state_dict(), "hyper_parameters": classifier.recipe.as_dict()}
    classifier.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, run.best)
    images = trained.parent / "images" / "red"
    expected, path = answers(run.best, images), bundled(run.best)
    (tmp_path / "weights.pth").unlink()
    assert answers(path, images) == expected


def ensemble_of(folder: Path, checkpoints: list[Path]) -> Path:
    """The record of an ensemble of these checkpoints."""
    ensemble = EnsembleFolder(folder)
    mark(folder, ENSEMBLE)
    ensemble.checkpoints.mkdir()
    copies = [shutil.copy(path, ensemble.checkpoints / f"{number}.ckpt") for number, path in enumerate(checkpoints)]
    members = [{"checkpoint": str(Path(copy).relative_to(folder))} for copy in copies]
    ensemble.record.write_text(json.dumps({"members": members}))
    return ensemble.record


def test_bundle__of_an_ensemble_has_their_backbone_once(
    run: RunFolder, trained: Path, script: Script, tmp_path: Path
) -> None:
    record = ensemble_of(tmp_path / "ensemble", [run.best, run.last, run.best])
    expected = answers(record.parent, trained.parent / "images" / "red")
    result = script("train.py", "task=export", f"ckpt_path={record.parent}", "export.format=bundle")
    assert result.status == 0, result.err
    path = record.parent / "model.ckpt"
    one = bundled(run.best)
    held = sum(tensor.nbytes for tensor in read_checkpoint(one)["backbone"].values())
    assert path.stat().st_size < 3 * one.stat().st_size - 1.9 * held
    (tmp_path / "weights.pth").unlink()
    assert answers(path, trained.parent / "images" / "red") == expected
    assert len(headstart.load(path).ensemble) == 3
    result = script("train.py", "task=export", f"ckpt_path={path}")
    assert (
        result.err == f"error: {path} is the bundle of an ensemble, which only predict.py, embed and task=demo take\n"
    )
    result = script("train.py", "task=export", f"ckpt_path={record.parent}")
    assert result.err.endswith("is an ensemble, of which only a bundle can be exported: set export.format=bundle\n")


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def damage(content: dict[str, Any]) -> None:
    next(tensor for tensor in content["backbone"].values() if tensor.is_floating_point()).view(-1)[0] += 1e-3


def swap(content: dict[str, Any]) -> None:
    content["backbone"] = dict(nn.Linear(3, 2).state_dict())


@pytest.mark.parametrize("change", [damage, swap])
def test_error__another_backbone_names_both_hashes(run: RunFolder, change: Callable[[dict[str, Any]], None]) -> None:
    path = changed(bundled(run.best), change)
    own = read_checkpoint(path)["hyper_parameters"]["backbone"]["sha256"]
    with pytest.raises(HeadstartError, match=rf"\(in the bundle\) .* SHA-256 {own[:16]}…, these have [0-9a-f]{{16}}…$"):
        load_classifier(path, PLAIN, None)


@pytest.mark.parametrize("held", [{"weight": 1}, [1], None, {"a": {"b": torch.zeros(1)}}])
def test_error__what_holds_no_tensors_is_no_checkpoint(run: RunFolder, held: Any) -> None:
    path = changed(bundled(run.best), lambda content: content.update(backbone=held))
    with pytest.raises(HeadstartError, match="is not a checkpoint written by headstart"):
        read_checkpoint(path)


def test_error__another_version_of_the_library_builds_another_network(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bundled(run.best)
    original = build_classifier

    def other(arch: str, seed: int) -> nn.Module:
        check_architecture(arch)
        module = original(arch, seed)
        module.register_parameter("added", nn.Parameter(torch.zeros(1)))
        return module

    monkeypatch.setattr("headstart.backbones.torchvision.build_classifier", other)
    with pytest.raises(HeadstartError, match=r"torchvision \S+ does not build model\.arch=shufflenet_v2_x0_5 as"):
        load_classifier(path, PLAIN, None)


@pytest.mark.parametrize("name", ["mine.ckpt", "run/checkpoints/last.ckpt"])
def test_error__only_a_bundle_is_replaced(run: RunFolder, script: Script, tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.ckpt").write_text("mine")
    before = (tmp_path / name).read_bytes()
    options = ("task=export", f"ckpt_path={run.path}", "export.format=bundle", f"export.path={tmp_path / name}")
    result = script("train.py", *options)
    assert result.status == 1
    assert result.err.startswith(
        f"error: {tmp_path / name} is not a bundle that headstart wrote, so it is not replaced"
    )
    assert (tmp_path / name).read_bytes() == before


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ("export.path=model.onnx", "export.path=model.onnx must end in .ckpt, as export.format=bundle"),
        ("export.precision=float16", "export.precision=float16 needs export.format=onnx"),
    ],
)
def test_error__options_of_other_formats(run: RunFolder, script: Script, option: str, sentence: str) -> None:
    result = script("train.py", "task=export", f"ckpt_path={run.path}", "export.format=bundle", option)
    assert sentence in result.err


def test_bundle__is_a_checkpoint_in_its_runs_folder(run: RunFolder, script: Script, tmp_path: Path) -> None:
    write_bundle(run.best, run.bundle, None)
    (tmp_path / "weights.pth").unlink()
    tested = script("train.py", "task=test", f"ckpt_path={run.bundle}", "report=none", "hydra.run.dir=tested")
    assert tested.status == 0, tested.err
    assert (
        json.loads(Path("tested/metrics.json").read_text())["test/acc"]
        == json.loads(run.metrics.read_text())["test/acc"]
    )
    for options in (["task=report"], ["task=export", "export.format=bundle"]):
        result = script("train.py", *options, f"ckpt_path={run.bundle}")
        assert result.status == 0, result.err
    resumed = script("train.py", f"ckpt_path={run.bundle}")
    assert resumed.err == f"error: {run.bundle} is a bundle, which cannot be resumed: use last.ckpt of its run\n"


def restored(backbone: Backbone) -> Backbone:
    """The backbone, from its weights alone."""
    state = backbone.network.state_dict()
    return restore_backbone(backbone.source, backbone.preprocessing, moved_to=None, held=state)


def assert_same(found: Backbone, expected: Backbone) -> None:
    assert found.source == expected.source
    size = expected.preprocessing.image_size
    image = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    np.testing.assert_array_equal(found(image).numpy(), expected(image).numpy())


@pytest.mark.slow
def test_backbone__of_googlenet_normalizes_as_its_weights_expect(tmp_path: Path) -> None:
    """Its files come from another library."""
    path = tmp_path / "googlenet.pth"
    torch.save(build_classifier("googlenet", seed=1).state_dict(), path)
    backbone = loaded("googlenet", str(path))
    path.unlink()
    assert_same(restored(backbone), backbone)


def loaded(arch: str, weights: str | None) -> Backbone:
    from headstart.backbones.backbone import _provider_of
    from headstart.backbones.provider import Choice

    provider = _provider_of(arch)
    network = provider.load(Choice(arch, weights, "default", 64), 0)
    return Backbone(network, Preprocessing(64, 64), arch, "default", 0, provider.find_stages)


@pytest.mark.slow
def test_backbone__of_timm_needs_no_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    path = tmp_path / "vit.pth"
    torch.manual_seed(7)
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), path)
    backbone = loaded("timm/vit_tiny_patch16_224", str(path))
    path.unlink()
    assert_same(restored(backbone), backbone)


@pytest.mark.slow
def test_error__an_architecture_that_is_a_file_itself(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    folder = tmp_path / "model"
    folder.mkdir()
    values = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {"classifier": "fc"}}
    (folder / "config.json").write_text(json.dumps(values))
    torch.save(timm.create_model("resnet18").state_dict(), folder / "pytorch_model.bin")
    backbone = loaded(f"timm/local-dir:{folder}", "default")
    with pytest.raises(HeadstartError, match="is described by a file beside its weights, so it cannot be built"):
        restored(backbone)
