import pytest
import torch

from headstart.data.transforms import Preprocessing
from headstart.errors import HeadstartError
from headstart.features.encoder import Encoder
from headstart.model.backbone import state_sha256
from headstart.model.classifier import Classifier, Recipe
from headstart.model.weights import load_backbone
from headstart.settings import FinetuneSettings

SIZES = Preprocessing(resize_size=40, image_size=32)


def make(**changes) -> Classifier:
    backbone, source = load_backbone("shufflenet_v2_x0_5", None, seed=0, preprocessing=SIZES)
    values = {
        "classes": ("ant", "bee", "cat"),
        "backbone": source,
        "preprocessing": SIZES,
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
        "finetune": FinetuneSettings(
            epochs=[], lr_factors=[], rest=None, rest_lr_factor=1.0, batch_norm=False, mixup=0.0, cutmix=0.0
        ),
    }
    return Classifier(Encoder(backbone, precision="32", compile=False), Recipe(**values | changes))


PICTURES = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_forward__pictures_or_their_features() -> None:
    classifier = make().eval()
    log_probs = classifier(PICTURES)
    assert torch.equal(classifier(classifier.backbone(PICTURES)), log_probs)
    assert torch.allclose(log_probs.exp().sum(1), torch.ones(4))


def test_train__the_head_learns_and_the_backbone_stays_frozen() -> None:
    classifier = make().train()
    before = state_sha256(classifier.backbone)
    assert classifier.head.training
    assert not any(module.training for module in classifier.backbone.modules())
    optimizer = classifier.configure_optimizers()
    torch.nn.functional.nll_loss(classifier(PICTURES), torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {
        id(p) for p in classifier.head.parameters()
    }
    assert state_sha256(classifier.backbone) == before


def test_head__depends_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    first = state_sha256(make().head)
    assert state_sha256(make().head) == first
    assert state_sha256(make(seed=1).head) != first


def test_head__is_the_recipes() -> None:
    names = [type(layer).__name__ for layer in make().head]
    assert names == ["Linear", "ReLU", "Dropout", "Linear", "LogSoftmax"]


def test_checkpoint__leaves_the_backbone_out_and_finds_it_again() -> None:
    classifier = make()
    checkpoint = {"state_dict": classifier.state_dict(), "hyper_parameters": classifier.recipe.as_dict()}
    classifier.on_save_checkpoint(checkpoint)
    assert {key.partition(".")[0] for key in checkpoint["state_dict"]} == {"head"}
    other = make()
    with torch.no_grad():
        other.head[0].weight.zero_()
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"], strict=True)
    assert state_sha256(other) == state_sha256(classifier)


def test_recipe__survives_as_plain_values() -> None:
    recipe = make().recipe
    assert Recipe.from_dict(recipe.as_dict()) == recipe


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": ("ant", "cat", "bee")}, "its classes is"),
        ({"lr": 1e-2}, "its lr is 0.001, not 0.01"),
        ({"seed": 1}, "its seed is 0, not 1"),
    ],
)
def test_resume__with_another_recipe_is_refused(change: dict, sentence: str) -> None:
    with pytest.raises(HeadstartError, match="cannot go on with this configuration") as caught:
        make(**change).check_same_recipe(make().recipe.as_dict())
    assert sentence in str(caught.value)


def test_resume__with_moved_weights_or_other_data_is_not() -> None:
    saved = make(data_fingerprint="1").recipe.as_dict()
    saved["backbone"] |= {"weights": "/elsewhere.pth"}
    make().check_same_recipe(saved)


def evaluated(module: Classifier, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The loss that a validation step measures."""
    measured = []
    module._measure = lambda split, log_probs, labels, loss: measured.append(loss)
    module.validation_step((features, labels))
    return measured[0]


def test_balance__classes_weigh_inversely_to_their_sizes_in_the_training_loss_alone() -> None:
    plain, weighted = make(), make(balance="loss", class_counts=(30, 10, 2))
    assert weighted.class_weights is not None
    assert weighted.class_weights.tolist() == pytest.approx([42 / 90, 42 / 30, 42 / 6])
    weighted.load_state_dict(plain.state_dict())
    features, labels = torch.randn(8, plain.backbone.embedding_dim), torch.tensor([0, 1, 2, 0, 0, 0, 1, 0])
    for module in (plain, weighted):
        module.eval().log = lambda *arguments, **options: None
        module.log_dict = module.log
    log_probs = plain(features)
    expected = torch.nn.NLLLoss(weight=weighted.class_weights)(log_probs, labels)
    assert torch.equal(weighted.training_step((features, labels)), expected)
    losses = [evaluated(module, features, labels) for module in (plain, weighted)]
    assert torch.equal(losses[0], losses[1])


def test_balance__its_weights_are_in_no_checkpoint() -> None:
    assert "class_weights" not in make(balance="loss", class_counts=(30, 10, 2)).state_dict()
