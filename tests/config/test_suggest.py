import pytest
import torchvision

from headstart.config.checks import SYNONYMS, architecture_names, meant_keys, nearest, suggestion
from headstart.config.predict import PredictSettings
from headstart.config.train import TrainSettings, known_keys, unknown_key
from headstart.errors import listed

TRAIN, PREDICT = known_keys(TrainSettings), known_keys(PredictSettings)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("epochs", "trainer.max_epochs"),
        ("finetune.epoch", None),
        ("data.workers", "data.num_workers"),
        ("data.path", "data.root"),
        ("model.path", "model.weights"),
        ("fast_dev_run", "trainer.fast_dev_run"),
        ("Batch-Size", "data.batch_size"),
        ("model.lr", "model.lr"),
        ("trainer.path", None),
        ("nonsense", None),
        ("model.lrr", None),
    ],
)
def test_meant_keys__of_train(name: str, key: str | None) -> None:
    assert meant_keys(name, TRAIN) == ([] if key is None else [key])


def test_meant_keys__of_predict() -> None:
    for name in ("data", "data.root", "images"):
        assert meant_keys(name, PREDICT) == ["source"]
    assert meant_keys("epochs", PREDICT) == []


def test_synonyms__are_of_keys_that_exist() -> None:
    elsewhere = {"hydra.run.dir", "callbacks.early_stopping.patience"}
    assert set(SYNONYMS) <= {*TRAIN, *PREDICT, *elsewhere}


def test_unknown_key__a_synonym_before_what_is_spelled_alike() -> None:
    assert str(unknown_key("epochs", TrainSettings)) == "unknown key 'epochs': did you mean 'trainer.max_epochs'?"
    assert str(unknown_key("model.lrr", TrainSettings)) == "unknown key 'model.lrr': did you mean 'model.lr'?"


def test_suggestion__a_long_list_is_cut() -> None:
    known = [f"trainer.key_{number}" for number in range(300)]
    end = suggestion("trainer.xyz", known)
    assert end.startswith(": known keys are trainer.key_0, trainer.key_1")
    assert end.endswith("… and 288 more")
    assert listed("abc") == "a, b, c"


def test_nearest() -> None:
    assert nearest("foldr", ["folder", "shapes"]) == ": did you mean folder?"
    assert nearest("x", ["folder", "shapes"]) == ": choose one of folder, shapes"


def test_architecture_names__are_torchvisions() -> None:
    assert list(architecture_names()) == sorted(torchvision.models.list_models(module=torchvision.models))
