"""Closed-form heads: one epoch, on the unaugmented view, and the same contract as for trained heads.

Also the mean of the mlp, which is trained, and ridge, which is fitted first.
"""

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, Script, draw_classes, manifest_of, settings_of

from headstart.backbones.backbone import load_backbone
from headstart.metrics import compute_metrics
from headstart.model.checkpoint import load_classifier, read_checkpoint
from headstart.model.classifier import Classifier
from headstart.model.closed_form import ClosedForm, Ridge
from headstart.model.image_classifier import MlpAndRidge, build_head
from headstart.training.fit import Fitted, fit

RULE = ("data.split.train=6", "data.split.valid=3")
EXACT = ("features.precision=32", "logger=none")
HEADS = pytest.mark.parametrize("head", ["ridge", "knn", "logistic"])


def fitted(root: Path, folder: Path, *overrides: str) -> Fitted:
    """What `fit` returns of a run in `folder`, whose features are beside it."""
    store = f"features.dir={folder.parent / 'features'}"
    settings = settings_of(f"data.root={root}", *SMALL, *RULE, *EXACT, store, *overrides)
    settings = replace(settings, run_dir=str(folder))
    backbone = load_backbone(settings.model, settings.data, seed=settings.seed)
    return fit(settings, manifest_of(root, settings.data.split), backbone, [])


Kept = Callable[[str], Fitted]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `images`, and of what `kept` makes."""
    folder = tmp_path_factory.mktemp("closed_form")
    draw_classes(folder / "images", 12)
    return folder


@pytest.fixture(scope="module")
def kept(base: Path) -> Kept:
    """Returns what a run with a head returned; each is made once, in `base` / HEAD / "run"."""
    return functools.cache(lambda head: fitted(base / "images", base / head / "run", f"model.head={head}"))


def layer_of(found: Fitted) -> ClosedForm:
    layer = found.classifier.head[0]
    assert isinstance(layer, ClosedForm)
    return layer


@pytest.mark.slow
@HEADS
def test_fit__is_to_the_unaugmented_features_and_encodes_nothing_twice(base: Path, kept: Kept, head: str) -> None:
    found = kept(head)
    stored = sorted((base / head / "features").glob("*train*/*.npy"))
    assert [path.name for path in stored] == ["view-0000.npy"]
    features = torch.tensor(found.source.unaugmented()["train"])
    assert sorted((base / head / "features").glob("*train*/*.npy")) == stored
    labels = torch.tensor(found.source.manifest.splits["train"].labels)
    again = build_head(found.classifier.recipe, features.shape[1])[0]
    assert isinstance(again, ClosedForm)
    left_out = again.fit(features, labels).log_softmax(1)
    torch.testing.assert_close(again(features), layer_of(found)(features), rtol=1e-4, atol=1e-4)
    # By itself, an image would always be right.
    expected = compute_metrics(left_out, labels, "train")
    (row,) = found.history
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert "lr" not in row


@HEADS
def test_fit__restores_from_its_checkpoint(base: Path, kept: Kept, head: str) -> None:
    found = kept(head)
    assert found.metrics().items() >= {"best_epoch": 1, "epochs": 1}.items()
    path = base / head / "run" / "checkpoints" / "best.ckpt"
    loaded = load_classifier(path, settings_of("data.root=x", *SMALL).features, None)
    features = torch.randn(5, loaded.backbone.embedding_dim)
    assert torch.equal(loaded.predict_proba(features), found.classifier.predict_proba(features))
    assert read_checkpoint(path)["hyper_parameters"]["head"] == head


@pytest.mark.slow
@pytest.mark.parametrize("head", ["linear", "ridge", "knn", "logistic", "mean"])
def test_fit__without_stored_features_is_the_same(base: Path, kept: Kept, tmp_path: Path, head: str) -> None:
    not_stored = fitted(base / "images", tmp_path / "run", f"model.head={head}", "features.cache=false")
    assert kept(head).metrics() == pytest.approx(not_stored.metrics(), rel=1e-4)


WHATEVER = (
    ("trainer.limit_val_batches=0", "callbacks.early_stopping=null", "callbacks.checkpoint=null"),
    ("trainer.num_sanity_val_steps=2", "callbacks.checkpoint=null", "data.batch_size=1"),
    ("trainer.val_check_interval=0.5", "trainer.max_steps=1"),
)


@pytest.mark.slow
@HEADS
def test_fit__is_the_same_whatever_the_trainer_does(base: Path, kept: Kept, tmp_path: Path, head: str) -> None:
    plain = kept(head)
    features = torch.randn(5, plain.classifier.backbone.embedding_dim)
    expected = layer_of(plain)(features)
    for number, more in enumerate(WHATEVER):
        other = layer_of(fitted(base / "images", tmp_path / str(number), f"model.head={head}", *more))
        torch.testing.assert_close(other(features), expected, rtol=1e-4, atol=1e-4, msg=" ".join(more))


@pytest.mark.slow
def test_mean__is_of_the_mlp_and_the_ridge_of_their_own_runs(base: Path, kept: Kept) -> None:
    mean, mlp, ridge = map(kept, ("mean", "mlp", "ridge"))
    losses = [[row["train/loss"] for row in run.history] for run in (mean, mlp)]
    assert losses[0] == losses[1]
    last = [torch.load(base / kind / "run/checkpoints/last.ckpt")["state_dict"] for kind in ("mean", "mlp")]
    assert all(torch.equal(last[0][f"head.0.mlp.{key}"], last[1][f"head.{key}"]) for key in ("0.weight", "3.weight"))
    layer = mean.classifier.head[0].eval()
    assert isinstance(layer, MlpAndRidge)
    for name, buffer in layer_of(ridge).named_buffers():
        assert torch.equal(buffer, layer.ridge.get_buffer(name)), name
    # The valid split is predicted by the mean.
    features = torch.tensor(mean.source.unaugmented()["valid"])
    with torch.no_grad():
        probs = (layer.mlp(features).softmax(1) + layer.ridge(features).softmax(1)) / 2
    expected = compute_metrics(probs.log(), torch.tensor(mean.source.manifest.splits["valid"].labels), "valid")
    assert mean.metrics()["valid/loss"] == pytest.approx(float(expected["valid/loss"]), rel=1e-4)


def metrics_of(run: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return metrics | {"seconds": 0}


@pytest.mark.slow
@HEADS
def test_resume__a_finished_run_ends_with_the_same_figures(base: Path, kept: Kept, tmp_path: Path, head: str) -> None:
    first, last = kept(head), f"ckpt_path={base / head / 'run' / 'checkpoints' / 'last.ckpt'}"
    again = fitted(base / "images", tmp_path / "again", f"model.head={head}", last)
    assert again.metrics() == first.metrics()
    assert again.history == first.history


def test_resume__a_run_that_was_interrupted_before_the_fit_or_is_finished(
    script: Script, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, arguments = tmp_path / "whole", (f"data.root={flat}", *SMALL, *RULE, "model.head=ridge")
    first = script("train.py", *arguments, f"hydra.run.dir={whole}")
    assert first.status == 0, first.err
    assert "chosen by predicting each training image from the others" in first.out
    assert not first.err

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Ridge, "fit", interrupt)
        assert script("train.py", *arguments, f"hydra.run.dir={tmp_path / 'part'}").status == 130
    for run in ("part", "whole"):
        again = tmp_path / f"{run} resumed"
        resumed = script("train.py", f"ckpt_path={tmp_path / run}", f"hydra.run.dir={again}")
        assert resumed.status == 0, resumed.err
        assert metrics_of(again) == metrics_of(whole)
        assert (again / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_resume__of_a_mean_does_not_fit_its_ridge_again(
    script: Script, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (f"data.root={flat}", *SMALL, *RULE, "model.head=mean")
    whole = ("trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'whole'}")
    assert script("train.py", *arguments, *whole).status == 0

    begin = Classifier.on_train_epoch_start

    def interrupt(classifier: Classifier) -> None:
        if classifier.current_epoch == 1:
            raise KeyboardInterrupt
        begin(classifier)

    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "on_train_epoch_start", interrupt)
        part = ("trainer.max_epochs=2", f"hydra.run.dir={tmp_path / 'part'}")
        assert script("train.py", *arguments, *part).status == 130
    monkeypatch.setattr(Ridge, "fit", lambda *_: pytest.fail("it was fitted already"))
    resumed = script("train.py", f"ckpt_path={tmp_path / 'part'}", f"hydra.run.dir={tmp_path / 'resumed'}")
    assert resumed.status == 0, resumed.err
    assert metrics_of(tmp_path / "resumed") == metrics_of(tmp_path / "whole")
    assert (tmp_path / "resumed" / "history.csv").read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()
