"""sweep.ensemble: the best trials as one predictor."""

import csv
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, Result, Script, draw_classes
from runs import run_script

import headstart
from headstart.api import Leaderboard
from headstart.errors import HeadstartError
from headstart.features.encoder import Encoder
from headstart.predict.predictor import Predictor
from headstart.run_folder import EnsembleFolder, SweepFolder
from headstart.sweeping.finalize import finalize

# Each runs whole trainings.
pytestmark = pytest.mark.slow

# Features that tell the classes apart a little, so that trials differ.
TINY = (
    *(*SMALL, "model.arch=mobilenet_v3_small", "model.weights=bundled", "features.precision=32"),
    *("data.split.train=4", "data.split.valid=7", "trainer.max_epochs=2"),
)
RANDOM = ("data.split.train=0.5", "data.split.valid=0.25", "hydra.sweep.dir=sweep")
GRID = ("-m", "model.lr=0.01,0.001", "model.dropout=0.2,0.4", "hydra.sweep.dir=sweep")


@dataclass(frozen=True)
class Swept:
    """A finished sweep of four trials with an ensemble of three: its folder, its images, the command, what it said."""

    sweep: SweepFolder
    images: Path
    base: tuple[str, ...]
    result: Result


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """Run once; tests only read it, or work on a copy of its folder."""
    home = tmp_path_factory.mktemp("swept")
    images = draw_classes(home / "images", 12)
    base = (f"data.root={images}", *TINY, f"features.dir={home / 'features'}")
    result = run_script(home, "train.py", *base, *GRID, "sweep.ensemble=3")
    assert result.status == 0, result.err
    return Swept(SweepFolder(home / "sweep"), images, base, result)


@pytest.fixture
def copied(swept: Swept, script: Script) -> EnsembleFolder:
    """The ensemble in a copy of the sweep, which is in the current folder."""
    return EnsembleFolder(Path(shutil.copytree(swept.sweep.path, "sweep", symlinks=True)) / "ensemble")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def load(folder: Path) -> Predictor:
    return headstart.load(folder, accelerator="cpu", precision="32", compile=False)


def probabilities(predictor: Predictor, images: Path, views: int = 1) -> dict[Path, list[float]]:
    """Of the classes in their order, by the image's path."""
    found = predictor.predict(images, topk=len(predictor.classes), views=views)
    by_name = {p.path: dict(zip(p.classes, p.probabilities, strict=True)) for p in found}
    return {path: [of[name] for name in predictor.classes] for path, of in by_name.items()}


def assert_is_mean(ensemble: Predictor, members: Iterable[Predictor], images: Path, views: int = 1) -> None:
    """The probabilities of the ensemble are the mean of those of its members."""
    found = probabilities(ensemble, images, views)
    of_members = [probabilities(member, images, views) for member in members]
    assert len(of_members) > 1
    for path, values in found.items():
        assert values == pytest.approx(np.mean([of[path] for of in of_members], axis=0), abs=1e-6)
        assert not np.allclose(values, of_members[0][path], atol=1e-4)


def changes(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_ensemble__is_the_mean_of_the_best_trials(swept: Swept) -> None:
    rows = rows_of(swept.sweep.leaderboard)
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "ensemble"]
    members = [load(swept.sweep.path / row["folder"]) for row in rows[:3]]
    assert_is_mean(load(swept.sweep.ensemble), members, swept.images)


def test_ensemble__is_scored_as_it_predicts(swept: Swept) -> None:
    folder = EnsembleFolder(swept.sweep.ensemble)
    found = probabilities(load(folder.path), swept.images)
    metrics = json.loads(folder.metrics.read_text())
    classes = ("blue", "green", "red")
    for split, path, count in (("valid", folder.valid_predictions, 21), ("test", folder.test_predictions, 3)):
        rows = rows_of(path)
        assert len(rows) == count
        own = torch.tensor([found[swept.images / row["path"]] for row in rows], dtype=torch.float64)
        labels = torch.tensor([classes.index(row["label"]) for row in rows])
        assert [classes[i] for i in own.argmax(1).tolist()] == [row["prediction"] for row in rows]
        assert [float(row["probability"]) for row in rows] == pytest.approx(own.amax(1).tolist(), abs=1e-5)
        loss = -own.gather(1, labels[:, None]).log().mean()
        assert metrics[f"{split}/loss"] == pytest.approx(float(loss), abs=1e-5)
        assert metrics[f"{split}/acc"] == pytest.approx(float((own.argmax(1) == labels).double().mean()))


def test_leaderboard__has_the_ensemble_and_whether_it_is_better_than_chance(swept: Swept) -> None:
    metrics = json.loads(EnsembleFolder(swept.sweep.ensemble).metrics.read_text())
    summary = json.loads(swept.sweep.summary.read_text())["ensemble"]
    best, *_, row = rows_of(swept.sweep.leaderboard)
    assert summary["metrics"] == metrics
    assert summary["best_accuracy"] == pytest.approx(float(best["valid/acc"]))
    assert summary["members"][0]["trial"] == best["folder"]
    assert float(row["valid/loss"]) == metrics["valid/loss"]
    assert f"\nensemble  {'':8}" in swept.result.out
    assert "on the 21 valid images, the ensemble of 3 trials has accuracy" in swept.result.out
    assert f"p = {summary['p_value']:.2g})" in swept.result.out
    assert f"\nensemble: sweep/ensemble  test/loss {metrics['test/loss']:.4f}" in swept.result.out
    # What the trials themselves say is untouched: only the best one was tested.
    assert len(list(swept.sweep.path.glob("*=*/test"))) == 1


def test_board__gives_the_ensemble(swept: Swept) -> None:
    ensemble = Leaderboard(swept.sweep.path).ensemble
    assert ensemble.folder == swept.sweep.ensemble
    assert ensemble.metrics["test/acc"] == json.loads((ensemble.folder / "metrics.json").read_text())["test/acc"]
    assert ensemble.predictor(accelerator="cpu").classes == ("blue", "green", "red")
    assert Leaderboard(swept.sweep.path).best.folder.name == rows_of(swept.sweep.leaderboard)[0]["folder"]


def test_images__are_encoded_once_for_members_with_one_backbone(swept: Swept, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, forward = [], Encoder.forward

    def counted(encoder: Encoder, images: torch.Tensor) -> torch.Tensor:
        counts.append(len(images))
        return forward(encoder, images)

    monkeypatch.setattr(Encoder, "forward", counted)
    predictor = load(swept.sweep.ensemble)
    predictor.predict(swept.images)
    assert sum(counts) == 36
    assert len({id(member.backbone) for member in predictor.ensemble}) == 1


def test_moved__predicts_all_that_predict_py_can(swept: Swept, script: Script, tmp_path: Path) -> None:
    moved = shutil.copytree(swept.sweep.ensemble, tmp_path / "elsewhere" / "pets")
    images = tmp_path / "images"
    for path in sorted(swept.images.glob("*/[01].jpg")):
        (images / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, images / path.parent.name)
    options = ("annotate=true", "explain=true", "labelled=true", "min_confidence=0.99", "accelerator=cpu")
    result = script("predict.py", f"ckpt_path={moved}", f"source={images}", "output=out", *options)
    assert result.status == 0, result.err
    assert "ensemble of 3 classifiers; familiarity and explanations are those of the best one" in result.out
    rows = rows_of(Path("out/predictions.csv"))
    found = probabilities(load(moved), images)
    assert all(float(row["prob_1"]) == pytest.approx(max(found[Path(row["path"])]), abs=1e-5) for row in rows)
    # Familiarity is that of the best member.
    best = load(swept.sweep.best).predict(images)
    assert [float(row["familiar"]) for row in rows] == pytest.approx([p.familiarity for p in best], abs=1e-4)
    assert len(list(Path("out/explained").rglob("*.jpg"))) == 6
    assert Path("out/contact_sheets/1.jpg").is_file()
    report = json.loads(Path("out/report/report.json").read_text())
    assert report["temperature"] == 1
    # Dividing by a temperature of 1 only rounds.
    for name in ("log_loss", "ece"):
        assert report["calibrated"][name] == pytest.approx(report["uncalibrated"][name])
    np.testing.assert_array_equal(load(moved).embed(images), load(swept.sweep.best).embed(images))


def finished_again(sweep: Path, ensemble: int) -> None:
    """Does what the command does after the last trial."""
    assert finalize(SweepFolder(sweep), "valid/loss", {}, is_complete=True, ensemble=ensemble)


def test_rerun__does_nothing_again(swept: Swept, script: Script, copied: EnsembleFolder) -> None:
    before = changes(copied.path)
    assert script("train.py", *swept.base, *GRID, "sweep.ensemble=3").status == 0
    assert changes(copied.path) == before


def test_rerun__with_another_number(copied: EnsembleFolder, messages: list[str]) -> None:
    for asked, used in ((2, 2), (9, 4)):
        finished_again(copied.path.parent, asked)
        assert any(f"the ensemble of {used} trials" in text for text in messages)
        assert {path.name for path in copied.checkpoints.iterdir()} == {f"{place}.ckpt" for place in range(1, used + 1)}
    # Without one, that of before is not shown.
    messages.clear()
    finished_again(copied.path.parent, 0)
    assert messages
    assert "ensemble" not in "".join(messages)
    assert len(rows_of(Path("sweep/leaderboard.csv"))) == 4
    with pytest.raises(HeadstartError, match=r"has no ensemble: sweep\.ensemble=5 makes one"):
        Leaderboard(Path("sweep")).ensemble  # noqa: B018


def test_rerun__completes_a_half_written_ensemble(swept: Swept, copied: EnsembleFolder) -> None:
    before = json.loads(copied.record.read_text())
    whole = probabilities(load(swept.sweep.ensemble), swept.images)
    for lost in ("ensemble.json", "checkpoints/2.ckpt"):
        (copied.path / lost).unlink()
        (copied.checkpoints / "1.ckpt").write_bytes(b"")
        with pytest.raises(HeadstartError):
            load(copied.path)
        finished_again(copied.path.parent, 3)
        assert json.loads(copied.record.read_text()) == before
        assert probabilities(load(copied.path), swept.images) == whole


def test_other_backbones_and_sizes__work_too(swept: Swept, script: Script) -> None:
    # The backbones are trained too, in the second epoch.
    values = ("model.arch=timm/test_resnet,squeezenet1_1", "data.image_size=32,24")
    base = [of for of in swept.base if not of.startswith(("data.image_size", "model.arch", "model.weights"))]
    more = ("model.weights=null", "model.lr=0.01", "finetune.rest=1", "hydra.sweep.dir=sweep", "sweep.ensemble=4")
    result = script("train.py", *base, "-m", *values, *more)
    assert result.status == 0, result.err
    rows = rows_of(Path("sweep/leaderboard.csv"))[:-1]
    assert len(rows) == 4
    ensemble, trials = load(Path("sweep/ensemble")), [load(Path("sweep") / row["folder"]) for row in rows]
    for views in (1, 3):
        assert_is_mean(ensemble, trials, swept.images / "red", views)
    assert len({id(member.backbone) for member in ensemble.ensemble}) == 4
    found = {row["path"]: row["prediction"] for row in rows_of(Path("sweep/ensemble/valid_predictions.csv"))}
    own = ensemble.predict(swept.images, topk=1)
    labels = {str(p.path.relative_to(swept.images)): p.label for p in own}
    assert found == {path: labels[path] for path in found}


def test_other_data__a_warning_says_why_there_is_none(swept: Swept, script: Script) -> None:
    sweep = ("-m", "data.seed=0,1", *RANDOM, "sweep.ensemble=2", "trainer.max_epochs=1")
    result = script("train.py", *swept.base, *sweep)
    assert result.status == 0, result.err
    assert result.err.count("warning: ") == 1
    assert "there is no ensemble, because the trials were trained on different images" in result.err
    assert "set data.seed=0" in result.err
    assert not Path("sweep/ensemble").exists()
    assert json.loads(Path("sweep/leaderboard.json").read_text())["ensemble"] is None


def test_single_trial__is_no_ensemble(swept: Swept, copied: EnsembleFolder, messages: list[str]) -> None:
    for row in rows_of(swept.sweep.leaderboard)[1:4]:
        shutil.rmtree(Path("sweep", row["folder"]))
    finished_again(Path("sweep"), 2)
    assert any("there is no ensemble, because fewer than two trials were completed" in text for text in messages)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-m", "model.lr=0.01,0.1", "sweep.ensemble=1"), "sweep.ensemble=1 is invalid: it must be 0, for none, or an"),
        (("-m", "model.lr=0.01,0.1", "sweep.ensemble=x"), "sweep.ensemble=x is invalid"),
        (("-m", "model.lr=0.01,0.1", "sweep.ensemble=2,3"), "sweep.ensemble cannot have several values"),
        (("sweep.ensemble=2",), "sweep.ensemble= averages the trials of a sweep, and needs -m"),
    ],
)
def test_rejected__before_the_first_trial(swept: Swept, script: Script, arguments: Any, says: str) -> None:
    result = script("train.py", *swept.base, *arguments)
    assert result.status == 1
    assert says in result.err
    assert result.err.count("\n") == 1
    assert not Path("logs").exists() or not list(Path("logs").rglob("trial.json"))


def test_rejected__to_train_or_test_it_again(swept: Swept, script: Script) -> None:
    result = script("train.py", "task=test", f"ckpt_path={swept.sweep.ensemble}")
    assert result.status == 1
    assert "is an ensemble, which only predict.py, embed, task=demo and task=export take" in result.err
