"""Runs in which the backbone is trained too."""

import csv
import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Script, draw_classes, settings_of
from pytorch_lightning import Trainer
from runs import run_script

from headstart.model.classifier import NETWORK, Classifier
from headstart.training.callbacks.history import History

# Each runs whole trainings.
pytestmark = pytest.mark.slow

RULE = ("data.split.train=6", "data.split.valid=3", "model.lr=0.01")
# Two stages, from epochs 1 and 2 on.
GRADUAL = ("finetune=gradual", "finetune.epochs=[1,2]", "finetune.lr_factors=[0.5,0.1]")
Run = Callable[[tuple[str, ...]], Path]


def train(script: Script, root: Path, run: Path, *overrides: str) -> list[dict[str, float]]:
    arguments = (f"data.root={root}", *SMALL, *RULE, "callbacks.early_stopping=null")
    result = script("train.py", *arguments, f"hydra.run.dir={run}", *overrides)
    assert result.status == 0, result.err
    rows = list(csv.DictReader((run / "history.csv").open()))
    return [{name: float(value) for name, value in row.items()} for row in rows]


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


def metrics_of(run: Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads((run / "metrics.json").read_text())
    del metrics["seconds"]
    return metrics


def assert_same_run(first: Path, second: Path) -> None:
    assert (first / "history.csv").read_text() == (second / "history.csv").read_text()
    assert metrics_of(first) == metrics_of(second)
    ours, theirs = (weights(run / "checkpoints" / "last.ckpt") for run in (first, second))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The folder of a run with some options, which is made once, beside the "images" and "features" of all of them."""
    base = tmp_path_factory.mktemp("finished")
    images = draw_classes(base / "images", 12)

    @functools.cache
    def run(options: tuple[str, ...]) -> Path:
        folder = base / f"run-{run.cache_info().currsize}"
        arguments = (f"data.root={images}", f"features.dir={base / 'features'}", *SMALL, *RULE, *options)
        result = run_script(base, "train.py", *arguments, "callbacks.early_stopping=null", f"hydra.run.dir={folder}")
        assert result.status == 0, result.err
        return folder

    return run


# Of 18 images: BatchNorm cannot be trained with the last one; the schedule must count the same steps.
ONE_IMAGE_LEFT = ("data.batch_size=17", "model.schedule=cosine", "trainer.max_epochs=3")
FULL_RUN, GRADUAL_RUN = (*ONE_IMAGE_LEFT, "finetune=full"), (*ONE_IMAGE_LEFT, *GRADUAL)
EMA = ("callbacks=ema",)
MIXED = ("finetune.mixup=0.2", "finetune.cutmix=1.0", "model.label_smoothing=0.1")


@pytest.mark.parametrize(
    ("options", "epochs"),
    [
        # Interrupted before a stage is unfrozen, when the first is, and after the second.
        pytest.param((*GRADUAL, *EMA, *MIXED), (1, 2, 3), id="gradual-ema-mixed"),
        pytest.param(("finetune=full",), (1,), id="full"),
    ],
)
def test_interrupted_and_resumed__ends_like_an_uninterrupted_run(
    script: Script,
    finished: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    epochs: tuple[int, ...],
) -> None:
    options = (*options, "model.arch=timm/test_resnet", f"trainer.max_epochs={epochs[-1] + 1}")
    whole = finished(options)
    latest = (f"data.root={whole.parent / 'images'}", *SMALL, *RULE, *options, "callbacks.early_stopping=null")
    for epoch in epochs:

        def interrupt(callback: History, trainer: Trainer, module: Classifier, epoch: int = epoch) -> None:
            if trainer.current_epoch == epoch:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(History, "on_train_epoch_start", interrupt)
            assert script("train.py", *latest, f"hydra.run.dir={tmp_path / str(epoch)}").status != 0
        latest = (f"ckpt_path={tmp_path / str(epoch) / 'checkpoints' / 'last.ckpt'}",)
    result = script("train.py", *latest, f"hydra.run.dir={tmp_path / 'resumed'}")
    assert result.status == 0, result.err
    assert_same_run(whole, tmp_path / "resumed")
    # By these the run says what fine-tuning has changed: the best before it and the best after.
    losses, expected = (
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["Unfreezing"]["losses"]
        for run in (tmp_path / "resumed", whole)
    )
    assert losses.keys() == expected.keys()
    assert all(torch.equal(losses[phase], expected[phase]) for phase in losses)


def test_gradual__with_the_cache_as_without(script: Script, flat: Path, tmp_path: Path) -> None:
    exact = (*GRADUAL, "features.precision=32", "trainer.max_epochs=3", "model.arch=timm/test_resnet")
    cached = train(script, flat, tmp_path / "cached", *exact, f"features.dir={tmp_path / 'features'}")
    without = train(script, flat, tmp_path / "without", *exact, "features.cache=false")
    for ours, theirs in zip(cached, without, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    # Of train and valid, in the first epoch only.
    assert len(list((tmp_path / "features").rglob("view-*.npy"))) == 2


@pytest.mark.parametrize("options", [FULL_RUN, GRADUAL_RUN], ids=["full", "gradual"])
def test_last_batch__of_a_single_image_is_left_out(finished: Run, options: tuple[str, ...]) -> None:
    run = finished(options)
    assert metrics_of(run)["epochs"] == 3
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 3
    assert checkpoint["lr_schedulers"][0]["_last_lr"][0] == pytest.approx(0, abs=1e-9)


def test_early_stopping__waits_until_the_last_stage_is_unfrozen(script: Script, flat: Path, tmp_path: Path) -> None:
    # No improvement is large enough to count.
    still = ("callbacks.early_stopping.min_delta=1", "callbacks.early_stopping.patience=2", "trainer.max_epochs=9")
    arguments = (f"data.root={flat}", *SMALL, *RULE, *GRADUAL, *still, "finetune.epochs=[1,3]")
    result = script("train.py", *arguments, "model.arch=timm/test_resnet", f"hydra.run.dir={tmp_path / 'run'}")
    assert result.status == 0, result.err
    # The last stage is unfrozen in epoch 3; epochs 3 and 4 bring no improvement.
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 1 + 5


def test_max_epochs__before_the_last_stage_is_unfrozen_is_a_warning(messages: list[str]) -> None:
    settings_of("data.root=x", *SMALL, *RULE, *GRADUAL, "trainer.max_epochs=2")
    assert any("trainer.max_epochs=2 ends before every stage in finetune is unfrozen" in text for text in messages)


def test_gradual__checkpoints_contain_what_was_trained(finished: Run, trained: Path) -> None:
    for name in ("last", "best"):
        state = weights(finished(GRADUAL_RUN) / "checkpoints" / f"{name}.ckpt")
        held = {key.removeprefix(NETWORK).partition(".")[0] for key in state if key.startswith(NETWORK)}
        # Images this small leave single pixels after stage3, so that all from there on is one stage.
        assert held == {"conv5", "stage4", "stage3", "stage2"}
    assert not [key for key in weights(trained / "checkpoints" / "last.ckpt") if key.startswith(NETWORK)]


@pytest.mark.parametrize("options", [FULL_RUN, GRADUAL_RUN], ids=["full", "gradual"])
def test_checkpoint__tested_again_gives_the_same_metrics_and_predicts(
    script: Script, finished: Run, tmp_path: Path, options: tuple[str, ...]
) -> None:
    # The untrained backbone's features of the same images must not be taken for those of the trained one.
    finished(("trainer.max_epochs=1",))
    run = finished(options)
    best, store = run / "checkpoints" / "best.ckpt", f"features.dir={run.parent / 'features'}"
    again = script("train.py", "task=test", f"ckpt_path={best}", store, f"hydra.run.dir={tmp_path / 'again'}")
    assert again.status == 0, again.err
    expected = metrics_of(run)
    for name, value in metrics_of(tmp_path / "again").items():
        assert value == pytest.approx(expected[name], rel=1e-2, abs=1e-3)
    source = f"source={run.parent / 'images' / 'red'}"
    predicted = script(
        "predict.py", f"ckpt_path={best}", source, f"output={tmp_path / 'out'}", "features.compile=false"
    )
    assert predicted.status == 0, predicted.err


def test_lr__of_each_stage_from_the_first_step(finished: Run) -> None:
    state = torch.load(finished(GRADUAL_RUN) / "checkpoints" / "last.ckpt", weights_only=True)
    groups = state["optimizer_states"][0]["param_groups"]
    assert [group["initial_lr"] for group in groups] == pytest.approx([0.01, 0.005, 0.001])
    assert groups[0]["lr"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["finetune=full", "features.cache=true"],
            "features.cache=true has no effect when the backbone is trained from the first epoch",
        ),
        (["finetune.mixup=0.2"], "finetune.mixup=0.2 needs a backbone that is trained"),
        (
            ["finetune=gradual", "finetune.epochs=[5]"],
            "finetune.epochs=[5] and finetune.lr_factors=[0.1, 0.03] must have the same length",
        ),
        (["finetune=gradual", "finetune.epochs=[5,3]"], "it must be non-negative epochs in ascending order"),
        (["finetune=gradual", "finetune.rest=2"], "finetune.rest=2 is invalid: the stages above are unfrozen later"),
        (["finetune=gradual", "trainer.max_epochs=many"], "trainer.max_epochs=many is invalid"),
        (["finetune=full", "data.batch_size=1"], "data.batch_size=1 is invalid with finetune"),
        (["finetune.rest_lr_factor=0.5"], "unknown key 'finetune.rest_lr_factor'"),
        (["model.schedule=linear"], "it must be one of constant, cosine, onecycle"),
        (["model.schedule=cosine", "trainer.max_epochs=-1"], "model.schedule=cosine needs a limit"),
    ],
)
def test_invalid_settings__are_one_sentence(script: Script, flat: Path, overrides: list[str], sentence: str) -> None:
    result = script("train.py", f"data.root={flat}", *SMALL, *RULE, *overrides)
    assert result.status == 1
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert sentence in result.err
    assert not list(Path.cwd().iterdir())
