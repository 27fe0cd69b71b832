"""The kinds of heads, and their checkpoints and class activation maps."""

from typing import Any

import pytest
import torch
from test_classifier import IMAGES, classifier_of, settings

from headstart.config.model import CLOSED_FORM, MEAN, TRAINED
from headstart.model.classifier import ClosedFormClassifier, build_classifier
from headstart.model.closed_form import ClosedForm
from headstart.model.image_classifier import ImageClassifier, MlpAndRidge, saliency_maps, setting_of

LABELS = torch.arange(24) % 3
KINDS = pytest.mark.parametrize("kind", [*TRAINED, *CLOSED_FORM, MEAN])


def ready(kind: str, **changes: Any) -> ImageClassifier:
    """A classifier whose head, if it is fitted in closed form, is fitted."""
    classifier = classifier_of(head=kind, **changes).eval()
    layer = classifier.head[0]
    if isinstance(part := layer.ridge if isinstance(layer, MlpAndRidge) else layer, ClosedForm):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8, generator=generator)
        part.fit(classifier.embed(images), LABELS)
    return classifier


@pytest.mark.slow
@KINDS
def test_head__gives_log_probabilities_and_maps(kind: str) -> None:
    classifier = ready(kind)
    log_probs = classifier(IMAGES)
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(4))
    maps = saliency_maps(classifier, IMAGES, log_probs.argmax(1))
    assert maps.isfinite().all()
    assert maps.amax() == pytest.approx(1)


@pytest.mark.slow
@KINDS
def test_head__restores_from_its_state(kind: str) -> None:
    classifier = ready(kind)
    other = classifier_of(head=kind, seed=1).eval().restore({"state_dict": classifier.state_dict()})
    assert torch.equal(other(IMAGES), classifier(IMAGES))


def test_head__linear_is_one_layer() -> None:
    assert [type(layer).__name__ for layer in classifier_of(head="linear").head] == ["Linear", "LogSoftmax"]


@KINDS
def test_head__only_one_that_is_fitted_has_chosen_a_setting(kind: str) -> None:
    classifier = ready(kind)
    assert bool(setting_of(classifier.head)) == (kind not in TRAINED)
    assert classifier.recipe.is_closed_form == (kind in CLOSED_FORM)
    built = build_classifier(classifier.backbone, classifier.recipe, settings().features)
    assert isinstance(built, ClosedFormClassifier) == (kind in CLOSED_FORM)
    assert bool(list(built.head.parameters())) == (kind not in CLOSED_FORM)


def test_head__mean_is_of_the_probabilities_and_trains_the_mlp() -> None:
    classifier, mlp = ready("mean"), classifier_of(head="mlp").eval()
    layer, features = classifier.head[0], classifier.embed(IMAGES)
    assert isinstance(layer, MlpAndRidge)
    both = mlp.head(features).exp(), layer.ridge(features).softmax(1)
    torch.testing.assert_close(classifier.head(features).exp(), (both[0] + both[1]) / 2)
    in_training = []
    for of in (classifier, mlp):
        torch.manual_seed(0)
        in_training.append(of.train().head(features))
    assert torch.equal(*in_training)
    # Also where both heads are sure that it is another class.
    layer.ridge.scale.fill_(1e4)
    assert classifier.eval().head(features * 1e4).isfinite().all()
