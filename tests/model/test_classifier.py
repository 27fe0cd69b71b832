import functools
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import SMALL, settings_of
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from headstart.backbones.backbone import Backbone, load_backbone, state_sha256
from headstart.config.model import EncoderSettings, FinetuneSettings
from headstart.config.train import TrainSettings
from headstart.data.dataset import IGNORED
from headstart.errors import HeadstartError
from headstart.metrics import compute_metrics
from headstart.model.classifier import Classifier, mixed, mixing, training_loss
from headstart.model.recipe import Recipe
from headstart.training.trainer import build_trainer

FROZEN = FinetuneSettings(epochs=[], lr_factors=[], rest=None, batch_norm=False, mixup=0.0, cutmix=0.0)
IMAGES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])


@functools.cache
def settings() -> TrainSettings:
    return settings_of("data.root=x", *SMALL, "logger=none")


FULL = FinetuneSettings(epochs=[], lr_factors=[], rest=0, batch_norm=False, mixup=0.0, cutmix=0.0)


def classifier_of(backbone: Backbone | None = None, **changes: Any) -> Classifier:
    backbone = backbone or load_backbone(settings().model, settings().data, seed=0)
    values: dict[str, Any] = {
        "classes": ("ant", "bee", "cat"),
        "backbone": backbone.source,
        "preprocessing": backbone.preprocessing,
        "head": "mlp",
        "hidden_dim": 16,
        "dropout": 0.4,
        "lr": 1e-3,
        "weight_decay": 0.0,
        "seed": 0,
        "data_fingerprint": "0",
        "precision": "32",
        "balance": "none",
        "class_counts": (5, 5, 5),
        "label_smoothing": 0.0,
        "schedule": "constant",
        "warmup": 0.0,
        "finetune": FROZEN,
    }
    return Classifier(backbone, Recipe(**values | changes), EncoderSettings(precision="32", compile=False))


@pytest.mark.slow
def test_forward__images_or_their_features() -> None:
    classifier = classifier_of().eval()
    log_probs = classifier(IMAGES)
    assert torch.equal(classifier(classifier.encoder(IMAGES)), log_probs)
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(4))


def test_predict_proba__is_the_exponential_of_predict_log_proba() -> None:
    classifier = classifier_of().eval()
    features = classifier.encoder(IMAGES)
    for x in (IMAGES, features):
        probabilities = classifier.predict_proba(x)
        assert torch.allclose(probabilities.sum(1), torch.ones(4))
        assert torch.equal(probabilities, classifier.predict_log_proba(x).exp())
    assert torch.equal(classifier.predict_log_proba(features), classifier(features))
    # At any other temperature, of the scores divided by it.
    classifier.temperature.fill_(0.5)
    torch.testing.assert_close(classifier.predict_proba(features), (classifier(features) / 0.5).softmax(1))


def test_train__the_head_learns_while_the_backbone_stays_frozen() -> None:
    classifier = classifier_of().train()
    classifier.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    before = state_sha256(classifier.backbone)
    assert classifier.head.training
    assert not any(module.training for module in classifier.backbone.modules())
    optimizer = classifier.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    nn.functional.nll_loss(classifier(IMAGES), LABELS).backward()
    optimizer.step()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in classifier.head.parameters()
    }
    assert state_sha256(classifier.backbone) == before


def test_head__depends_only_on_the_seed() -> None:
    torch.manual_seed(3)
    first = state_sha256(classifier_of().head)
    assert state_sha256(classifier_of().head) == first
    assert state_sha256(classifier_of(seed=1).head) != first


def test_head__is_the_recipes() -> None:
    names = [type(layer).__name__ for layer in classifier_of().head.children()]
    assert names == ["Linear", "ReLU", "Dropout", "Linear", "LogSoftmax"]


def checkpoint_of(classifier: Classifier) -> dict[str, Any]:
    checkpoint = {"state_dict": classifier.state_dict(), "hyper_parameters": classifier.recipe.as_dict()}
    classifier.on_save_checkpoint(checkpoint)
    return checkpoint


def without_first_layer(classifier: Classifier) -> Classifier:
    with torch.no_grad():
        next(classifier.head.parameters()).zero_()
    return classifier


def test_checkpoint__leaves_the_frozen_backbone_out_and_adds_it_again() -> None:
    classifier = classifier_of()
    checkpoint = checkpoint_of(classifier)
    assert {key.partition(".")[0] for key in checkpoint["state_dict"]} == {"head", "temperature", "familiarity"}
    other = without_first_layer(classifier_of())
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"], strict=True)
    assert state_sha256(other) == state_sha256(classifier)
    restored = without_first_layer(classifier_of()).restore(checkpoint_of(classifier))
    assert state_sha256(restored) == state_sha256(classifier)


def test_recipe__survives_as_plain_values() -> None:
    recipe = classifier_of().recipe
    assert Recipe.from_dict(recipe.as_dict()) == recipe


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ("ant", "cat", "bee")}, "its classes are in another order: ant, bee, cat, not ant, cat, bee"),
        (
            {"head": "linear"},
            "model.head=linear cannot be set for a resumed run, whose checkpoint has mlp: leave it out",
        ),
        ({"dropout": 0.1}, "model.dropout=0.1 cannot be set for a resumed run, whose checkpoint has 0."),
        ({"seed": 1}, "seed=1 cannot be set for a resumed run, whose checkpoint has 0: "),
        ({"balance": "loss"}, "data.balance=loss cannot be set for a resumed run, whose checkpoint has none: "),
        ({"precision": "bf16"}, "features.precision=bf16 cannot be set for a resumed run, whose checkpoint has "),
        ({"finetune": FULL}, "finetune.rest=0 cannot be set for a resumed run, whose checkpoint has None: "),
    ],
)
def test_check_resumable__another_recipe_is_an_error(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HeadstartError) as caught:
        classifier_of(**change).recipe.check_resumable(classifier_of().recipe.as_dict())
    assert sentence in str(caught.value)


def test_check_resumable__another_learning_rate_or_weight_decay_is_not_another_recipe() -> None:
    classifier_of(lr=0.1, weight_decay=0.5).recipe.check_resumable(classifier_of().recipe.as_dict())


def test_check_resumable__other_data_or_a_moved_weights_file_are_not_another_recipe() -> None:
    saved = classifier_of(data_fingerprint="1", class_counts=(5, 5, 4)).recipe.as_dict()
    saved["backbone"] |= {"weights": "/elsewhere.pth"}
    classifier_of().recipe.check_resumable(saved)


def validation_metrics(classifier: Classifier, features: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Of batches of 3."""
    trainer = build_trainer(settings())
    trainer.validate(classifier, DataLoader(TensorDataset(features, labels), batch_size=3), verbose=False)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def test_balance__classes_weigh_inversely_to_their_sizes_only_in_the_training_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain, weighted = classifier_of(), classifier_of(balance="loss", class_counts=(30, 10, 2))
    assert weighted.class_weights is not None
    assert weighted.class_weights.tolist() == pytest.approx([42 / 90, 42 / 30, 42 / 6])
    weighted.load_state_dict(plain.state_dict())
    features, labels = torch.randn(8, plain.backbone.embedding_dim), torch.tensor([0, 1, 2, 0, 0, 0, 1, 0])
    log_probs = plain.eval()(features).detach()
    expected = nn.NLLLoss(weight=weighted.class_weights)(log_probs, labels)
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "log", lambda *arguments, **options: None)
        found = weighted.eval().training_step((features, labels))
        assert found is not None
        assert torch.allclose(found, expected)
    measured = [validation_metrics(classifier, features, labels) for classifier in (plain, weighted)]
    assert measured[0] == measured[1] == pytest.approx(compute_metrics(log_probs, labels, "valid"))


def test_balance__its_weights_are_in_no_checkpoint() -> None:
    assert "class_weights" not in classifier_of(balance="loss", class_counts=(30, 10, 2)).state_dict()


def test_training_loss__smoothed_and_of_mixed_images() -> None:
    log_probs, labels = torch.randn(6, 3).log_softmax(1), torch.tensor([0, 1, 2, 2, 1, 0])

    def mean_loss(targets: torch.Tensor, smoothing: float) -> torch.Tensor:
        summed, divisor = training_loss(log_probs, targets, None, smoothing)
        return summed / divisor

    plain = mean_loss(labels, 0.0)
    assert plain == pytest.approx(float(-log_probs[range(6), labels].mean()))
    smoothed = mean_loss(labels, 0.3)
    assert smoothed == pytest.approx(float(0.7 * plain - 0.3 * log_probs.mean()))
    proportions = torch.tensor([[0.75, 0.25, 0.0]] * 6)
    mixed = mean_loss(proportions, 0.0)
    assert mixed == pytest.approx(float(-(log_probs * proportions).sum(1).mean()))


WEIGHTS = torch.tensor([0.2, 1.0, 9.0])
PROPORTIONS = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.5, 0.5], [0.0, 1.0, 0.0], [0.1, 0.0, 0.9]])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize("targets", [LABELS, PROPORTIONS], ids=["labels", "mixed"])
def test_training_loss__weighted_by_the_true_class_alone(
    targets: torch.Tensor, weights: torch.Tensor | None, smoothing: float
) -> None:
    log_probs = torch.randn(4, 3).log_softmax(1)
    proportions = nn.functional.one_hot(targets, 3).float() if targets.ndim == 1 else targets
    summed, divisor = 0.0, 0.0
    for image, shares in zip(log_probs.tolist(), proportions.tolist(), strict=True):
        for label, share in enumerate(shares):
            weight = share * (1.0 if weights is None else float(weights[label]))
            summed -= weight * ((1 - smoothing) * image[label] + smoothing * sum(image) / 3)
            divisor += weight
    assert [float(part) for part in training_loss(log_probs, targets, weights, smoothing)] == pytest.approx(
        [summed, divisor]
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_training_loss__padding_does_not_count(smoothing: float) -> None:
    log_probs = torch.randn(4, 3).log_softmax(1)
    padded = torch.tensor([0, 2, IGNORED, IGNORED])
    found = training_loss(log_probs, padded, WEIGHTS, smoothing)
    assert torch.stack(found).tolist() == pytest.approx(
        torch.stack(training_loss(log_probs[:2], padded[:2], WEIGHTS, smoothing)).tolist()
    )


@pytest.mark.slow
def test_training_loss__with_smoothing_and_rare_classes_is_lowest_for_the_true_class() -> None:
    # One image in fifty is of the third class. PyTorch's own weighting of the smoothing prefers it for all images.
    weights, logits = torch.tensor([0.68, 0.68, 17.0]), torch.zeros(3, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        summed, divisor = training_loss(logits.log_softmax(0)[None], torch.tensor([0]), weights, 0.1)
        (summed / divisor).backward()
        optimizer.step()
    assert logits.softmax(0).tolist() == pytest.approx([0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3], abs=1e-3)


@pytest.mark.parametrize("known", [0, 1, 3, 4])
def test_mixing__without_the_padding_of_several_processes(known: int) -> None:
    mix = mixing(classifier_of(finetune=replace(FROZEN, rest=0, mixup=1.0)).recipe)
    assert mix is not None
    labels = torch.tensor([0, 1, 2, 0][:known] + [IGNORED] * (4 - known))
    images, proportions = mixed(mix, IMAGES, labels)
    assert torch.equal(images[known:], IMAGES[known:].float())
    assert proportions.sum(1).tolist() == pytest.approx([1.0] * known + [0.0] * (4 - known))
    log_probs = torch.randn(4, 3).log_softmax(1)
    summed, divisor = training_loss(log_probs, proportions, None, 0.0)
    assert divisor == known
    assert float(summed) == pytest.approx(float(-(log_probs * proportions)[:known].sum()), abs=1e-6)


@pytest.mark.parametrize("way", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_mixing__images_and_labels_in_the_same_proportions(way: dict[str, Any]) -> None:
    mix = mixing(classifier_of(finetune=replace(FROZEN, rest=0, **way)).recipe)
    assert mix is not None
    labels = torch.tensor([0, 1, 2, 0])
    # Only the channel of its class is on in an image, so that its mean tells how much of the class it shows.
    images = nn.functional.one_hot(labels).float()[:, :, None, None].expand(4, 3, 32, 32)
    found, proportions = mix(images, labels)
    assert torch.allclose(found.mean((2, 3)), proportions, atol=1e-6)
    assert not torch.equal(proportions, nn.functional.one_hot(labels).float())


def test_mixing__neither_way_is_none() -> None:
    assert mixing(classifier_of().recipe) is None
