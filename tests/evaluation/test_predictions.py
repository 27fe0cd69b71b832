import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Script, settings_of
from reference_metrics import expected_metrics

from headstart.backbones.backbone import load_backbone
from headstart.config.train import TrainSettings
from headstart.data.dataset import EvalTransform
from headstart.data.images import read_rgb
from headstart.data.manifest import Manifest
from headstart.data.prepare import prepare_data
from headstart.evaluation.predictions import Predictions, mean_of, predict_split, predict_splits, write_predictions
from headstart.features.source import FeatureSource
from headstart.model.classifier import Classifier
from headstart.model.recipe import recipe_of
from headstart.run_folder import RunFolder

# Of each class, 6 images for train, 1 for valid, 5 for test; the backbone tells them apart.
RULE = ("data.split.train=6", "data.split.valid=1", "model.arch=mobilenet_v3_small", "model.weights=bundled")
COLUMNS = ["path", "label", "prediction", "probability", "rank of true class"]


def settings_for(root: Path, folder: Path, *overrides: str) -> TrainSettings:
    exact = ("features.precision=32", f"features.dir={folder / 'features'}")
    return settings_of(*SMALL, *RULE, *exact, f"data.root={root}", *overrides)


def classifier_and_data(settings: TrainSettings) -> tuple[Classifier, FeatureSource]:
    manifest = prepare_data(settings.data, settings.seed).manifest
    backbone = load_backbone(settings.model, settings.data, seed=settings.seed)
    classifier = Classifier(backbone, recipe_of(settings, backbone, manifest), settings.features)
    return classifier, classifier.feature_source(settings, manifest)


@torch.no_grad()
def plain_forward(classifier: Classifier, manifest: Manifest) -> torch.Tensor:
    """The log-probabilities of the test split, image by image."""
    split, transform = manifest.splits["test"], EvalTransform(classifier.recipe.preprocessing)
    images = [transform(read_rgb(split.root / path), 0, 0) for path in split.paths]
    classifier.eval()
    return torch.cat([classifier.head(classifier.backbone(image[None])) for image in images])


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["features.cache=true", "features.cache=false", "finetune=full"])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_predict_split__each_sample_once_and_in_order(flat: Path, tmp_path: Path, batch_size: int, choice: str) -> None:
    settings = settings_for(flat, tmp_path, choice)
    settings = replace(settings, data=replace(settings.data, batch_size=batch_size))
    classifier, source = classifier_and_data(settings)
    split = source.manifest.splits["test"]
    classifier.train()
    found = predict_split(classifier, source.eval_loader("test"))
    assert found.paths == split.paths
    assert len(set(found.paths)) == len(split) == 15
    assert found.labels.tolist() == list(split.labels)
    expected = plain_forward(classifier, source.manifest)
    assert found.log_probs.shape == (15, 3)
    assert torch.allclose(found.log_probs, expected, atol=1e-5)
    differences = (expected[:, None] - expected[None]).abs().amax(2) + torch.eye(15)
    assert differences.min() > 1e-4, "so that another order would have been noticed"


@pytest.mark.slow
def test_predict_split__with_stored_features_without_encoding_again(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, source = classifier_and_data(settings_for(flat, tmp_path))
    first = predict_split(classifier, source.eval_loader("test"))
    classifier, source = classifier_and_data(settings_for(flat, tmp_path, "data.batch_size=5"))
    monkeypatch.setattr("headstart.features.encoder.Encoder.forward", None)
    again = predict_split(classifier, source.eval_loader("test"))
    assert torch.allclose(first.log_probs, again.log_probs, atol=1e-6)


@pytest.mark.slow
def test_predict_split__of_a_backbone_that_was_unfrozen_later_uses_no_stored_features(
    flat: Path, tmp_path: Path
) -> None:
    classifier, source = classifier_and_data(settings_for(flat, tmp_path, "finetune=gradual"))
    before = predict_split(classifier, source.eval_loader("valid"))
    with torch.no_grad():
        for parameter in classifier.backbone.parameters():
            parameter.mul_(1.1)
    after = predict_split(classifier, source.eval_loader("valid"))
    assert not torch.allclose(after.log_probs, before.log_probs, atol=1e-3)


def test_mean__of_calibrated_probabilities() -> None:
    first = predictions()
    second = replace(first, log_probs=first.log_probs.roll(1, 1), temperature=2.0, familiarity=torch.ones(4))
    found = mean_of([first, second])
    probabilities = [of.calibrated.exp() for of in (first, second)]
    torch.testing.assert_close(found.calibrated.exp(), (probabilities[0] + probabilities[1]) / 2)
    torch.testing.assert_close(found.log_probs, found.calibrated)
    assert (found.paths, found.familiarity) == (first.paths, None)
    torch.testing.assert_close(mean_of([second]).calibrated, second.calibrated)


def predictions() -> Predictions:
    """Predictions 0, 1, 1, 2 of the labels 0, 1, 0, 1."""
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.5, 0.2], [0.3, 0.1, 0.6]])
    names = ("test/ant/0.jpg", 'test/bee/a,"b".jpg', "test/ant/1.jpg", "test/bee/1.jpg")
    return Predictions(names, torch.tensor([0, 1, 0, 1]), probabilities.log())


def test_metrics__are_those_of_all_samples() -> None:
    found = predictions().metrics("valid")
    assert found == pytest.approx(expected_metrics(predictions().log_probs, predictions().labels, "valid"))
    assert found["valid/acc"] == 0.5
    assert set(predictions().metrics("test")) == {"test/loss", "test/acc", "test/f1"}


def test_true_ranks__of_the_true_class_by_probability() -> None:
    assert predictions().true_ranks().tolist() == [1, 1, 2, 3]


def test_true_ranks__one_exactly_where_the_prediction_is_right() -> None:
    # Equal probabilities included: of these, the first class is the prediction.
    log_probs = torch.randint(0, 3, (500, 4)).float().log_softmax(1)
    found = Predictions(("a.jpg",) * 500, torch.randint(4, (500,)), log_probs)
    assert torch.equal(found.true_ranks() == 1, log_probs.argmax(1) == found.labels)
    assert (found.true_ranks() == 1).float().mean() == found.metrics("test")["test/acc"]
    assert set(found.true_ranks().tolist()) == {1, 2, 3, 4}


def test_write__one_row_per_sample(tmp_path: Path) -> None:
    predictions().write(tmp_path / "test_predictions.csv", ("ant", "bee", "cat"))
    with (tmp_path / "test_predictions.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [
            COLUMNS,
            ["test/ant/0.jpg", "ant", "ant", "0.7", "1"],
            ['test/bee/a,"b".jpg', "bee", "bee", "0.6", "1"],
            ["test/ant/1.jpg", "ant", "bee", "0.5", "2"],
            ["test/bee/1.jpg", "bee", "cat", "0.6", "3"],
        ]


@pytest.mark.slow
def test_predictions__of_each_split_are_written_and_have_its_metrics(flat: Path, tmp_path: Path) -> None:
    classifier, source = classifier_and_data(settings_for(flat, tmp_path))
    predictions, run = predict_splits(classifier, source, ("valid", "test")), RunFolder(tmp_path)
    write_predictions(predictions, classifier.recipe.classes, run)
    labels = torch.tensor(source.manifest.splits["test"].labels)
    wanted = expected_metrics(plain_forward(classifier, source.manifest), labels, "test")
    assert predictions["test"].metrics("test") == pytest.approx(wanted, rel=1e-5)
    for split, path in (("valid", run.valid_predictions), ("test", run.test_predictions)):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["path"] for row in rows] == list(source.manifest.splits[split].paths)
        assert all((flat / row["path"]).is_file() for row in rows)


def test_run__its_test_predictions_have_the_accuracy_of_its_metrics(script: Script, flat: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = script("train.py", *SMALL, *RULE, f"data.root={flat}", "model.lr=0.003", f"hydra.run.dir={run}")
    assert result.status == 0, result.err
    result = script("train.py", "task=test", f"ckpt_path={run}/checkpoints/best.ckpt", f"hydra.run.dir={run}/again")
    assert result.status == 0, result.err
    for folder in (run, run / "again"):
        metrics = json.loads((folder / "metrics.json").read_text())
        with (folder / "test_predictions.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == COLUMNS
        assert len(rows) == 15
        assert sum(row["label"] == row["prediction"] for row in rows) / 15 == pytest.approx(metrics["test/acc"])
        assert all((row["rank of true class"] == "1") == (row["label"] == row["prediction"]) for row in rows)
        assert all(1 / 3 <= float(row["probability"]) <= 1 for row in rows)
        assert metrics["test/acc"] > 1 / 3, "better than a constant prediction"


@pytest.mark.parametrize("count", [1, 2, 3, 7, 47])
def test_mean_of__certain_predictions_is_certain(count: int) -> None:
    # The logarithm of the mean of seven times 1 is rounded to more than 0.
    certain = torch.tensor([[0.0, -torch.inf]])
    found = mean_of([Predictions(("a",), torch.tensor([0]), certain)] * count)
    assert found.log_probs.tolist() == [[0.0, -torch.inf]]
    assert found.metrics("test")["test/loss"] == 0
