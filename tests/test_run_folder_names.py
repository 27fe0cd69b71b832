"""Every file that a run, a trial or a sweep writes is known to headstart.run_folder."""

from pathlib import Path

import pytest
from conftest import SMALL, Script, draw_classes
from runs import run_script
from torch import Tensor

from headstart.files import MARKER
from headstart.model.classifier import Classifier
from headstart.run_folder import EnsembleFolder, RunFolder, SweepFolder, is_early_file, is_left_over

RULE = ("data.split.train=6", "data.split.valid=3", "trainer.max_epochs=1")
# In a sweep's folder, Hydra's own.
OF_HYDRA = {"multirun.yaml"}
COMPLETED, FAILED = {"model.hidden_dim=8", "model.hidden_dim=9"}, "model.hidden_dim=1000000000000"


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepFolder:
    """A finished sweep of two trials that completed, also as an ensemble, and of one that ran out of memory."""
    base = tmp_path_factory.mktemp("sweep")
    draw_classes(base / "images", 12)
    trials = ("-m", "model.hidden_dim=8,9,1000000000000", "hydra.sweep.dir=sweep", "sweep.ensemble=2")
    result = run_script(base, "train.py", f"data.root={base / 'images'}", *SMALL, *RULE, *trials)
    assert "3 trials, 1 of them failed" in result.out, result.err
    return SweepFolder(base / "sweep")


def properties(folder: RunFolder | SweepFolder | EnsembleFolder) -> set[Path]:
    """The paths that the class names."""
    values = (getattr(folder, name) for name in vars(type(folder)) if not name.startswith("_"))
    return {value for value in values if isinstance(value, Path)}


def assert_known(run: RunFolder) -> None:
    """Everything in the folder matches a pattern, and every file of headstart's own is a property."""
    for path in run.path.iterdir():
        assert is_early_file(path.name) or is_left_over(path.name), path
    known = properties(run)
    for path in run.path.rglob("*"):
        of_logger = path.name == "hparams.yaml" or path.name.startswith("events.")
        elsewhere = {run.test, run.report} & set(path.parents)
        assert path in known or path.is_dir() or of_logger or ".hydra" in path.parts or elsewhere, path


def test_finished_run__every_file_is_known(trained: Path) -> None:
    assert_known(RunFolder(trained))
    names = {path.name for path in trained.iterdir()}
    assert names >= {"run.json", "config.yaml", "audit.json", "history.csv", "metrics.json", "test_predictions.csv"}


@pytest.mark.slow
def test_finished_trial__every_file_is_known_and_would_be_removed(sweep: SweepFolder) -> None:
    completed, failed = RunFolder(RunFolder(sweep.best).trial.resolve().parent), sweep.trial(FAILED)
    for run in (completed, failed):
        assert_known(run)
        assert {path.name for path in run.path.iterdir() if not is_left_over(path.name)} == {MARKER, ".hydra"}
    # The run that tests the best trial, and the record of an error that was not foreseen.
    assert_known(RunFolder(completed.test))
    assert RunFolder(completed.test).metrics.exists()
    assert failed.traceback.exists()


def test_finished_sweep__every_file_is_known(sweep: SweepFolder) -> None:
    # Only a sweep over folds has out-of-fold predictions.
    known = {path.name for path in properties(sweep)} - {sweep.out_of_fold.name}
    assert {path.name for path in sweep.path.iterdir()} == known | COMPLETED | {FAILED} | OF_HYDRA
    ensemble = EnsembleFolder(sweep.ensemble)
    assert set(ensemble.path.iterdir()) == properties(ensemble)


def test_properties__all_match_a_pattern() -> None:
    folder = Path("run")
    for path in properties(RunFolder(folder)):
        first = path.relative_to(folder).parts[0]
        assert is_early_file(first) or is_left_over(first), path


def test_early_files__those_of_a_run_that_stops_in_its_first_epoch(
    script: Script, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(classifier: Classifier, batch: tuple[Tensor, Tensor]) -> None:
        raise RuntimeError("stopped")

    monkeypatch.setattr(Classifier, "training_step", stop)
    with pytest.raises(RuntimeError, match="stopped"):
        script("train.py", f"data.root={flat}", *SMALL, *RULE, f"hydra.run.dir={tmp_path / 'run'}")
    found = {path.name for path in (tmp_path / "run").iterdir()}
    assert all(map(is_early_file, found)), found
    assert found >= {".hydra", "run.json", "config.yaml", "audit.json", "checkpoints"}


@pytest.mark.parametrize("name", ["history.csv", "metrics.json", "trial.json", "report", "notes.txt", "best.ckpt"])
def test_early_files__no_results_and_nothing_of_the_user(name: str) -> None:
    assert not is_early_file(name)


@pytest.mark.parametrize("name", [".hydra", "notes.txt", "sweep.json", "leaderboard.csv", "my metrics.json"])
def test_left_overs__not_of_hydra_the_sweep_or_the_user(name: str) -> None:
    assert not is_left_over(name)
