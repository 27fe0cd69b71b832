"""What a closed-form head rules out."""

import pytest
from conftest import SMALL, settings_of

from headstart.config.train import TRAINER
from headstart.errors import HeadstartError

DATA = (*SMALL, "data.root=x")


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ridge", "knn", "logistic", "mean"])
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("finetune=gradual", "needs finetune=none"),
        ("finetune=full", "needs finetune=none"),
        ("data.balance=loss", "data.balance=loss is invalid with model.head="),
        ("data.balance=sampler", "data.balance=sampler is invalid with model.head="),
        ("callbacks=ema", "callbacks.ema is invalid with model.head="),
        ("trainer.devices=2", "trainer.devices=2 is invalid with model.head="),
        ("trainer.devices=auto", "set trainer.devices=1"),
        ("trainer.strategy=ddp", "set trainer.strategy=auto"),
    ],
)
def test_closed_form__needs_one_process_and_no_steps(head: str, override: str, sentence: str) -> None:
    settings_of(*DATA, override, "model.head=linear", "features.cache=false")
    with pytest.raises(HeadstartError, match=sentence) as caught:
        settings_of(*DATA, override, f"model.head={head}", "features.cache=false")
    assert f"model.head={head}" in str(caught.value)


@pytest.mark.parametrize("head", ["ridge", "knn", "logistic"])
def test_closed_form__has_one_epoch_whatever_the_trainer_says(head: str) -> None:
    steps = (
        "trainer.max_epochs=-1",
        "trainer.max_steps=3",
        "trainer.gradient_clip_val=1",
        "trainer.precision=16-mixed",
    )
    settings = settings_of(*DATA, *steps, "trainer.check_val_every_n_epoch=4", f"model.head={head}")
    assert settings.trainer.items() >= TRAINER.items()


@pytest.mark.parametrize("head", ["linear", "mean"])
def test_trained__has_the_epochs_of_the_trainer(head: str) -> None:
    assert settings_of(*DATA, f"model.head={head}").trainer["max_epochs"] == 3


def test_head__another_one_is_an_error() -> None:
    with pytest.raises(HeadstartError, match=r"model\.head=svm is invalid: it must be one of mlp, linear, ridge, knn"):
        settings_of(*DATA, "model.head=svm")
