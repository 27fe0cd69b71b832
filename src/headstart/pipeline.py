"""The tasks of train.py, each from the data to what it writes; training first."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from headstart.auditing.findings import find_problems, in_order
from headstart.auditing.report import (
    COMPARED,
    TOO_MANY,
    AuditReport,
    exceeds_comparison_limit,
    find_from_features,
    findings_table,
    missing_groups,
    movable_splits,
    preparation,
    with_near_duplicates,
    write_audit,
)
from headstart.backbones.backbone import check_backbone, load_backbone, preprocessing_of
from headstart.config.data import NEAR_DUPLICATES, NO_CORRECTIONS
from headstart.config.model import AUTO, BUNDLE, RECIPE, TRAINED, EncoderSettings
from headstart.config.train import EVALUATING, WITHOUT_DATA, TrainSettings
from headstart.data.corrections import usual_file
from headstart.data.dataset import EvalTransform, TrainTransform
from headstart.data.image_info import deep_samples
from headstart.data.manifest import Manifest
from headstart.data.prepare import PreparedData, inspect_data
from headstart.data.preprocessing import Array, other_depth
from headstart.datasets import open_data
from headstart.errors import HeadstartError, listed
from headstart.evaluation.compare import compare
from headstart.evaluation.predictions import predict_views, write_predictions
from headstart.features.source import encode_unaugmented
from headstart.features.store import features_by_content, open_store, stored_features
from headstart.files import PREDICTIONS, REPORT, RUN, check, claim
from headstart.log import command, log, shown
from headstart.machine import startup_seconds, training_device
from headstart.model.checkpoint import HELD, check_loadable, load_classifier, read_checkpoint
from headstart.model.image_classifier import ImageClassifier
from headstart.model.recipe import Recipe, check_unchanged, warn_about_other_data
from headstart.processes import first_on_node_first, from_first, rank
from headstart.report.page import write_audit_page
from headstart.report.write import RunRecord, warn_about_versions, write_report
from headstart.reviewing.labelling import Labelling, decided_contents, find_unlabelled, rank_unlabelled, write_ranking
from headstart.reviewing.queue import Review
from headstart.run_folder import RunFolder, checkpoint_file, is_ensemble, run_folder_of
from headstart.text import counted
from headstart.training.callbacks.history import read_history
from headstart.training.fit import Fitted, fit
from headstart.training.trainer import build_trainer, lightning_errors

if TYPE_CHECKING:
    # It needs the extra `review`.
    from headstart.reviewing.demo import DemoServer
    from headstart.reviewing.local import ReviewServer


def train(settings: TrainSettings) -> dict[str, float]:
    """Trains a head, scores its best epoch once on the test split, and writes the run's folder.

    Returns:
        The contents of metrics.json.

    Raises:
        HeadstartError: the data, the weights, the checkpoint or a setting is invalid.
    """
    load = cache(lambda: load_backbone(settings.model, settings.data, seed=settings.seed))
    with RunRecord(settings, startup_seconds()) as record:
        with record.stage("data"):
            # Encoding is shared by all processes: none may wait for the first one.
            with nullcontext() if settings.data.group == NEAR_DUPLICATES else first_on_node_first():
                data = open_data(settings.data, preparation(settings, load=load))
            if from_first(data.manifest.fingerprint) != data.manifest.fingerprint:
                raise HeadstartError(
                    f"process {rank() + 1} finds other images in {data.manifest.root} than the first: copy the same to "
                    "every machine"
                )
            audit = AuditReport(settings, data, compares=settings.finds_near_duplicates)
        with record.stage("model"), first_on_node_first():
            backbone = load()
        with record.stage("fit"):
            manifest = data.manifest
            if settings.finds_near_duplicates and settings.model.head not in TRAINED:
                # Heads that are chosen, or fitted, by leaving out images leave out near duplicates with them.
                manifest = with_near_duplicates(manifest, encode_unaugmented(settings, manifest, backbone))
            fitted = fit(settings, manifest, backbone, [record, audit])
            if settings.finds_near_duplicates:
                fitted.source.manifest = with_near_duplicates(manifest, fitted.source.unaugmented())
        with record.stage("test"):
            views = settings.evaluation.views
            predictions, averaging = predict_views(fitted.classifier, fitted.source, ("valid", "test"), views)
            for split, of_split in predictions.items():
                log.info("%s", of_split.summary(split))
            record.metrics |= fitted.metrics() | (averaging.metrics() if averaging is not None else {})
            if "test" in predictions:
                record.metrics |= predictions["test"].metrics("test")
            write_predictions(predictions, data.manifest.classes, record.run)
        if settings.report == "full":
            with record.stage("report"):
                write_report(fitted, predictions, record.run, averaging)
    return record.metrics


def check_without_data(settings: TrainSettings) -> tuple[TrainSettings, int]:
    """Checks what can be checked before data are downloaded, generated or scanned.

    Returns:
        The settings, with the checkpoint's file where `ckpt_path` is the folder of a run; and how many processes the
        task needs, on all machines together.

    Raises:
        HeadstartError: the checkpoint, the architecture or the weights could not be used, or Lightning rejected a
            setting of the trainer, a callback or a logger.
    """
    evaluates, processes = settings.task in EVALUATING, 1
    if settings.task not in ("audit", "review", "label", *WITHOUT_DATA):
        with lightning_errors(settings):
            trainer = build_trainer(settings)
        if settings.task == "train":
            processes = trainer.num_devices * trainer.num_nodes
    if settings.ckpt_path is not None:
        path = checkpoint_file(Path(settings.ckpt_path), "best" if evaluates else "last")
        settings = replace(settings, ckpt_path=str(path))
        if settings.task not in WITHOUT_DATA:
            warn_about_versions(run_folder_of(path))
        if settings.task in ("test", "report", "label", *WITHOUT_DATA):
            check_loadable(path, settings.model.weights)
        elif settings.task == "train":
            _check_resumable(read_checkpoint(path), settings)
    if not evaluates and settings.task != "compare":
        check_backbone(settings.model, settings.data)
    if settings.task == "train":
        _try_augmentation(settings)
    return settings, processes


def _try_augmentation(settings: TrainSettings) -> None:
    """Raises HeadstartError if the transforms of `augment` cannot be used, judging by one image."""
    preprocessing = preprocessing_of(settings.model, settings.data)
    if settings.augment.transforms not in ([], RECIPE):
        size = preprocessing.resize_size, preprocessing.image_size
        TrainTransform(preprocessing, settings.data.seed, settings.augment.transforms)(Image.new("RGB", size), 0, 0)


def _check_resumable(checkpoint: dict[str, Any], settings: TrainSettings) -> None:
    """Checks what Recipe.check_resumable finds when the data are known, as far as it does not depend on them."""
    if HELD in checkpoint:
        raise HeadstartError(f"{settings.ckpt_path} is a bundle, which cannot be resumed: use last.ckpt of its run")
    recipe = checkpoint["hyper_parameters"]
    saved = recipe | {"backbone arch": recipe["backbone"]["arch"], "backbone pooling": recipe["backbone"]["pooling"]}
    given = {"backbone arch": settings.model.arch, "backbone pooling": settings.model.pooling, "seed": settings.seed}
    model = {key: value for key, value in asdict(settings.model).items() if (key, value) != ("head", AUTO)}
    check_unchanged(saved, given | model)
    longest = settings.trainer.get("max_epochs")
    epochs = len(checkpoint["callbacks"].get("History", {}).get("rows", ()))
    if longest is not None and 0 <= longest <= epochs:
        log.warning(
            "the run that is resumed has completed trainer.max_epochs=%d epochs, so nothing is trained: for more, set "
            "trainer.max_epochs=%d",
            *(longest, epochs + longest),
        )


def train_and_advise(settings: TrainSettings) -> dict[str, float]:
    """Trains as `train` does, and then says how to predict with the result."""
    metrics = train(settings)
    best = RunFolder(Path(settings.run_dir)).best
    if best.is_file():
        views = int(metrics.get("views_used", 1))
        arguments = [f"ckpt_path={shown(Path(settings.run_dir))}", "source=FILE_OR_FOLDER"]
        arguments += [f"views={views}"] * (views > 1)
        log.info("best checkpoint: %s", shown(best))
        log.info("to predict: %s", command("predict.py", arguments))
    return metrics


def test(settings: TrainSettings) -> dict[str, float]:
    """Scores the checkpoint `settings.ckpt_path` on the test split of the data.

    With several `evaluation.views`, the valid split decides whether they are averaged.

    Returns:
        The contents of metrics.json.

    Raises:
        HeadstartError: there is no test split, its classes are not the checkpoint's, or as in `train`.
    """
    with RunRecord(settings, startup_seconds()) as record:
        with record.stage("model"):
            classifier = load_classifier(Path(str(settings.ckpt_path)), settings.features, settings.model.weights)
        with record.stage("data"):
            data = _data_for(classifier, settings)
            if "test" not in data.manifest.splits:
                raise HeadstartError(f"{data.manifest.root} has no test split")
        device = training_device(settings.trainer)
        record.begin(device, data.manifest, classifier.recipe.backbone)
        AuditReport(settings, data, compares=False).begin()
        with record.stage("test"):
            source = classifier.to(device).feature_source(settings, data.manifest)
            stored = _features_of(classifier.recipe, settings, data.manifest)
            if settings.finds_near_duplicates and stored is not None:
                source.manifest = with_near_duplicates(data.manifest, stored)
            views = settings.evaluation.views
            splits = ("test",) if views == 1 else ("valid", "test")
            predictions, averaging = predict_views(classifier, source, splits, views)
            record.metrics |= averaging.metrics() if averaging is not None else {}
            record.metrics |= predictions["test"].metrics("test")
            log.info("%s", predictions["test"].summary("test"))
            write_predictions(predictions, data.manifest.classes, record.run)
    return record.metrics


def report(settings: TrainSettings) -> bool:
    """Makes the report of the finished run that the checkpoint `settings.ckpt_path` is from again, in its folder.

    Raises:
        HeadstartError: the checkpoint is in no run's folder, or as in `test`.
    """
    path = Path(str(settings.ckpt_path))
    run = run_folder_of(path)
    if not run.history.is_file():
        raise HeadstartError(f"{path} is not in the folder of a finished run: {run.history} does not exist")
    check(run.path, RUN)
    check(run.report, REPORT)
    classifier = load_classifier(path, settings.features, settings.model.weights)
    data = _data_for(classifier, settings)
    source = classifier.to(training_device(settings.trainer)).feature_source(settings, data.manifest)
    if settings.finds_near_duplicates:
        source.manifest = with_near_duplicates(data.manifest, source.unaugmented())
    predictions, averaging = predict_views(classifier, source, ("valid", "test"), settings.evaluation.views)
    claim(run.path, RUN)
    fitted = Fitted(classifier, source, read_history(run.history), read_checkpoint(path)["epoch"] + 1)
    write_report(fitted, predictions, run, averaging)
    return True


def review(settings: TrainSettings) -> bool:
    """Serves the page on which the images of the run of the checkpoint `settings.ckpt_path` are reviewed, until Ctrl-C.

    Raises:
        HeadstartError: the extra `review` is not installed, the corrections cannot be written, or as in `test`.
    """
    server = review_server(settings)
    server.announce(opens_browser=settings.review.browser)
    server.serve()
    return True


def review_server(settings: TrainSettings) -> "ReviewServer":
    """Returns the server of that page; raises as `review`."""
    with _extra("review"):
        from headstart.reviewing.local import ReviewServer
    path = Path(str(settings.ckpt_path))
    recipe = Recipe.from_dict(read_checkpoint(path)["hyper_parameters"])
    file, data = _data_to_correct(settings)
    manifest = data.manifest
    _check_same_classes(manifest, recipe)
    return ReviewServer(Review(run_folder_of(path), manifest, _features_of(recipe, settings, manifest), file))


def _features_of(recipe: Recipe, settings: TrainSettings, manifest: Manifest) -> dict[str, Array] | None:
    """Returns the features of each split that a run of this recipe has stored; None: not of all images."""
    if (store := open_store(settings.features)) is None:
        return None
    transform, backbone = EvalTransform(recipe.preprocessing).spec, recipe.backbone.identity()
    known = features_by_content(store, manifest.splits, transform, backbone)
    if not all(content in known for split in manifest.splits.values() for content in split.contents):
        return None
    return {name: np.stack([known[content] for content in of.contents]) for name, of in manifest.splits.items()}


def _data_to_correct(settings: TrainSettings) -> tuple[Path, PreparedData]:
    """Returns the file with corrections, which the first decision creates, and the data with those that there are."""
    if settings.data.corrections == NO_CORRECTIONS:
        raise HeadstartError(
            f"task={settings.task} needs a file to write to: leave out data.corrections={NO_CORRECTIONS}"
        )
    given = settings.data.corrections
    file = usual_file(settings.data) if given is None else Path(given).expanduser()
    data = settings.data if file.exists() else replace(settings.data, corrections=NO_CORRECTIONS)
    return file, open_data(data, preparation(settings))


def label(settings: TrainSettings) -> bool:
    """Writes which images of `label.source` to label next, and serves the page to label them on, until Ctrl-C.

    Raises:
        HeadstartError: no image is left to label, or as in `test`.
    """
    labelling = choose_labels(settings)
    if not settings.label.serve:
        return True
    try:
        from headstart.reviewing.local import ReviewServer
    except ModuleNotFoundError:
        log.info('to label them on a page: pip install "headstart[review]"')
        return True
    server = ReviewServer(labelling)
    server.announce(opens_browser=settings.review.browser)
    server.serve()
    return True


def choose_labels(settings: TrainSettings) -> Labelling:
    """Writes which images to label next into the folder of the run; raises as `label`."""
    path = Path(str(settings.ckpt_path))
    run = run_folder_of(path)
    check(run.label_next, PREDICTIONS)
    file, data = _data_to_correct(settings)
    classifier = load_classifier(path, settings.features, settings.model.weights)
    _check_same_classes(data.manifest, classifier.recipe)
    pool = find_unlabelled(settings.label.source, data)
    classifier = classifier.to(training_device(settings.trainer))
    ranking = rank_unlabelled(settings, classifier, data, pool, decided_contents(file))
    write_ranking(ranking, run.label_next)
    log.info("%s to label next: %s", counted(len(ranking.choices), "image"), shown(run.label_next / "label_next.csv"))
    return Labelling(run, ranking, file)


def demo(settings: TrainSettings) -> bool:
    """Serves the page on which images are predicted with the checkpoint `settings.ckpt_path`, until Ctrl-C.

    Raises:
        HeadstartError: the extra `review` is not installed, or the checkpoint could not be loaded.
    """
    server = demo_server(
        Path(str(settings.ckpt_path)),
        accelerator=training_device(settings.trainer).type,
        precision=settings.features.precision,
        compile=settings.features.compile,
        weights=settings.model.weights,
    )
    server.announce(opens_browser=settings.review.browser)
    server.serve()
    return True


def demo_server(checkpoint: Path, **options: Any) -> "DemoServer":
    """Returns the server of that page, for a checkpoint, a run's folder, or an ensemble's.

    Args:
        options: those of headstart.predict.predictor.load_predictor.

    Raises:
        HeadstartError: as `demo`.
    """
    with _extra("demo"):
        from headstart.reviewing.demo import DemoServer, demo_of

    return DemoServer(demo_of(checkpoint, **options))


@contextmanager
def _extra(task: str) -> Iterator[None]:
    """Lets an import that the extra `review` is missing for end in one sentence."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise HeadstartError(f'task={task} needs {error.name}: pip install "headstart[review]"') from None


def audit(settings: TrainSettings) -> bool:
    """Shows what is wrong with the data, and writes audit.json and split.csv. Returns whether there are no errors."""
    data = open_data(settings.data, preparation(settings, inspect_data))
    features, compared = _features_to_compare(settings, data.manifest)
    more = find_from_features(data.manifest.splits, features, movable_splits(data.scan)) if features is not None else []
    findings = in_order(find_problems(data) + more + missing_groups(data.manifest, more))
    run = RunFolder(Path(settings.run_dir))
    claim(run.path, RUN, "hydra.run.dir")
    write_audit(run.audit, data, findings, compared)
    data.manifest.write(run.split)
    log.info("%s", data.manifest.describe())
    if findings:
        log.info("%s", findings_table(findings))
    errors = sum(finding.severity == "error" for finding in findings)
    log.info("near duplicates: %s", compared)
    write_audit_page(run, data, findings, compared)
    details = f"{shown(run.audit)} and {shown(run.page)}"
    log.info("errors: %d, warnings: %d; details: %s", errors, len(findings) - errors, details)
    return errors == 0


def export(settings: TrainSettings) -> bool:
    """Writes the checkpoint `settings.ckpt_path` for other runtimes, by default into its run's folder.

    Raises:
        HeadstartError: it could not be exported, or a file differs from it.
    """
    # They take seconds to import.
    from headstart.export.write import export as write
    from headstart.export.write import write_bundle

    # In the best trial's own folder, if it is in that of a sweep.
    path = Path(str(settings.ckpt_path)).resolve()
    exact = EncoderSettings(precision="32", compile=False)
    run = run_folder_of(path)
    folder = run if run.record.exists() else RunFolder(path.parent)
    if settings.export.format == BUNDLE:
        write_bundle(path, Path(settings.export.path or folder.bundle), settings.model.weights)
    elif is_ensemble(path):
        raise HeadstartError(f"{path} is an ensemble, of which only a bundle can be exported: set export.format=bundle")
    else:
        write(load_classifier(path, exact, settings.model.weights), folder, settings.export)
    return True


# What `task=` chooses. A task without a result has failed.
TASKS: Mapping[str, Callable[[TrainSettings], object]] = {
    "train": train_and_advise,
    "test": test,
    "report": report,
    "review": review,
    "label": label,
    "demo": demo,
    "audit": audit,
    "compare": compare,
    "export": export,
}


def _data_for(classifier: ImageClassifier, settings: TrainSettings) -> PreparedData:
    """Returns the data that `settings` describe, for a classifier that was trained on the same classes."""
    data = open_data(settings.data, preparation(settings))
    warn_about_other_data(classifier.recipe.data_fingerprint, data.manifest.fingerprint)
    _check_same_classes(data.manifest, classifier.recipe)
    if (reason := other_depth(deep_samples(data.infos), classifier.recipe.preprocessing.depth)) is not None:
        log.warning("%s", reason)
    return data


def _check_same_classes(manifest: Manifest, recipe: Recipe) -> None:
    if manifest.classes != recipe.classes:
        raise HeadstartError(
            f"{manifest.root} has the classes {listed(manifest.classes)}, but the checkpoint was trained on "
            f"{listed(recipe.classes)}"
        )


def _features_to_compare(settings: TrainSettings, manifest: Manifest) -> tuple[dict[str, Array] | None, str]:
    """Returns the features by which an audit finds near duplicates, and whether or why not it does."""
    if settings.data.near_duplicates is False:
        return None, "not compared (data.near_duplicates=false)"
    manifest = replace(manifest, splits={name: split for name, split in manifest.splits.items() if len(split)})
    if "train" not in manifest.splits:
        return None, "not compared (there are no images to train on)"
    if settings.data.near_duplicates is True:
        if not settings.finds_near_duplicates:
            raise HeadstartError(
                "data.near_duplicates=true needs features.cache=true, finetune=none, and model.weights other than null "
                "and bundled"
            )
        backbone = load_backbone(settings.model, settings.data, seed=settings.seed)
        return encode_unaugmented(settings, manifest, backbone), COMPARED
    if exceeds_comparison_limit(settings, manifest):
        return None, TOO_MANY
    store = open_store(settings.features)
    preprocessing = replace(preprocessing_of(settings.model, settings.data), depth=manifest.depth)
    stored = stored_features(store, manifest.splits, EvalTransform(preprocessing).spec) if store is not None else None
    if stored is None:
        return None, "not compared (training does it; or set data.near_duplicates=true)"
    return stored, COMPARED
