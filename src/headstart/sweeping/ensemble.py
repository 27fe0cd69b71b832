"""SWEEP/ensemble: the best trials of a sweep as one predictor, scored as the best trial is."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict

from headstart.config.model import EncoderSettings
from headstart.config.train import TrainSettings
from headstart.data.prepare import prepare_data
from headstart.datasets.make import make_dataset
from headstart.errors import HeadstartError
from headstart.evaluation.predictions import Predictions, mean_of, predict_splits, write_predictions
from headstart.evaluation.statistics import Array, mcnemar
from headstart.files import ENSEMBLE, claim, mark, remove, replacing, sha256_of, write_json
from headstart.log import log
from headstart.model.checkpoint import load_ensemble
from headstart.run_folder import EnsembleFolder, RunFolder, SweepFolder
from headstart.sweeping.leaderboard import EnsembleScore, Member, read_score
from headstart.sweeping.trial_record import FOLD, Trial
from headstart.training.data_module import ImageDataModule
from headstart.training.trainer import build_trainer, lightning_errors


def update_ensemble(
    sweep: SweepFolder, trials: Sequence[Trial], size: int, settings: TrainSettings
) -> EnsembleScore | None:
    """Makes the ensemble of the `size` best of the ranked `trials`, or of all, unless that was done before.

    None if they cannot be averaged, which a warning explains. `settings` are those of the best trial.

    Raises:
        HeadstartError: the data have changed, or a checkpoint could not be used.
    """
    completed = [trial for trial in trials if trial.reason is None]
    if reason := _why_not(completed):
        log.warning("sweep.ensemble=%d: there is no ensemble, because %s", size, reason)
        return None
    members = tuple(_member(sweep, place, trial) for place, trial in enumerate(completed[:size], start=1))
    folder = EnsembleFolder(sweep.ensemble)
    found = read_score(folder)
    if found is None or found.members != members:
        found = _make(folder, sweep, members, settings, completed[0].data)
    return found


def _why_not(completed: Sequence[Trial]) -> str | None:
    """Why completed trials cannot be averaged."""
    if len(completed) < 2:
        return "fewer than two trials were completed"
    if any(FOLD in trial.values for trial in completed):
        return f"the trials of a sweep over {FOLD} validate on different images"
    if len({trial.data for trial in completed}) > 1:
        return (
            "the trials were trained on different images, or on different splits of them: to give all the same split, "
            "set data.seed=0"
        )
    return None


def _member(sweep: SweepFolder, place: int, trial: Trial) -> Member:
    folder = EnsembleFolder(sweep.ensemble)
    checkpoint = (folder.checkpoints / f"{place}.ckpt").relative_to(folder.path)
    return Member(str(checkpoint), trial.folder, sha256_of(sweep.trial(trial.folder).best))


def _make(
    folder: EnsembleFolder, sweep: SweepFolder, members: tuple[Member, ...], settings: TrainSettings, trained_on: str
) -> EnsembleScore:
    """Copies and scores the members. The record is written last: without it, the ensemble is made again."""
    if read_score(folder) is not None:
        # Of an earlier version, it has no marker.
        mark(folder.path, ENSEMBLE)
    claim(folder.path, ENSEMBLE)
    _clear(folder)
    for member in members:
        with replacing(folder.path / member.checkpoint) as temporary:
            shutil.copyfile(sweep.trial(member.trial).best, temporary)
    classes, found = _predict(folder, members, settings, trained_on)
    mean = {split: mean_of([of[split] for of in found]) for split in found[0]}
    write_predictions(mean, classes, RunFolder(folder.path))
    score = _score(members, mean, found[0]["valid"])
    write_json(folder.metrics, score.metrics)
    write_json(folder.record, asdict(score))
    return score


def _clear(folder: EnsembleFolder) -> None:
    """Removes what an earlier ensemble left, its record first."""
    files = (folder.record, folder.metrics, folder.valid_predictions, folder.test_predictions)
    for path in (*files, *folder.checkpoints.glob("*.ckpt")):
        remove(path)


def _predict(
    folder: EnsembleFolder, members: tuple[Member, ...], settings: TrainSettings, trained_on: str
) -> tuple[tuple[str, ...], list[dict[str, Predictions]]]:
    """The classes, and each member's predictions of the valid and the test split."""
    make_dataset(settings.data, settings.data.seed)
    manifest = prepare_data(settings.data, settings.data.seed).manifest
    if manifest.fingerprint != trained_on:
        raise HeadstartError("the images have changed since the trials were trained: run the same command again")
    with lightning_errors(settings):
        device = build_trainer(settings).strategy.root_device
    features = EncoderSettings(precision="auto", compile=settings.features.compile)
    ensemble = load_ensemble((folder.path / member.checkpoint for member in members), features, moved_to=None)
    found = []
    for member in ensemble.to(device):
        loaders = ImageDataModule(settings, manifest)
        loaders.serve(member)
        found.append(predict_splits(member, loaders, ("valid", "test")))
    return manifest.classes, found


def _score(members: tuple[Member, ...], mean: dict[str, Predictions], best: Predictions) -> EnsembleScore:
    """`best` are the valid predictions of the best trial."""
    own, of_best = _correct(mean["valid"]), _correct(best)
    metrics = {name: value for split, of in mean.items() for name, value in of.metrics(split).items()}
    return EnsembleScore(members, metrics, len(own), float(of_best.mean()), mcnemar(own, of_best))


def _correct(predictions: Predictions) -> Array:
    """Whether each prediction (N) is right."""
    return (predictions.log_probs.argmax(1) == predictions.labels).numpy()
