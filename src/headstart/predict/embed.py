"""`headstart embed`: writes the features of images."""

import hashlib
from pathlib import Path

import numpy as np

from headstart.auditing.report import preparation
from headstart.config.predict import EmbedSettings
from headstart.config.train import TrainSettings, check_train, read_record
from headstart.data.dataset import EvalTransform
from headstart.data.images import read_image_file
from headstart.data.manifest import Manifest
from headstart.data.preprocessing import Array
from headstart.errors import HeadstartError
from headstart.features.store import features_by_content, open_store
from headstart.files import PREDICTIONS, check, claim, replacing, write_csv
from headstart.log import log
from headstart.model.image_classifier import ImageClassifier
from headstart.predict.predictor import Predictor, predictor_of
from headstart.predict.sources import find_images
from headstart.processes import thread_imap
from headstart.run_folder import checkpoint_file, run_folder_of
from headstart.storage import local
from headstart.text import named


def embed(settings: EmbedSettings) -> None:
    """Writes features.npy (float32, N × embedding_dim) and index.csv with the same rows, or one Parquet file.

    Images whose features were stored by the training are not encoded again. Images that cannot be read are left out,
    with a warning.

    Raises:
        HeadstartError: there is no checkpoint, or no image that can be read.
    """
    output = Path(settings.output)
    check(output, PREDICTIONS, "output")
    paths = find_images(settings.source)
    predictor = predictor_of(settings)
    known = _known_features(predictor, Path(settings.ckpt_path), paths)
    missing = [path for path in paths if path not in known]
    rows = predictor.stream_features(
        missing, batch_size=settings.data.batch_size, num_workers=settings.data.num_workers
    )
    for path, features in zip(missing, rows, strict=True):
        if isinstance(features, str):
            log.warning("%s", features)
        else:
            known[path] = features
    kept = [path for path in paths if path in known]
    if not kept:
        raise HeadstartError(f"none of the {len(paths)} images of source={settings.source} could be read")
    matrix = np.stack([np.asarray(known[path], np.float32) for path in kept])
    claim(output, PREDICTIONS, "output")
    written = _write_parquet(kept, matrix, output) if settings.format == "parquet" else _write(kept, matrix, output)
    cached = len(paths) - len(missing)
    log.info("%d images, %d features each (%d images from the feature cache): %s", *matrix.shape, cached, written)


def _known_features(predictor: Predictor, checkpoint: Path, paths: list[Path]) -> dict[Path, Array]:
    """Returns the stored features of those `paths` that are images of the checkpoint's own training data."""
    classifier = predictor.classifier
    run = run_folder_of(checkpoint_file(checkpoint, "best"))
    if classifier.recipe.finetune.first_epoch is not None or not run.config.is_file():
        return {}
    try:
        settings = check_train(read_record(run))
        root = local(settings.data.root).resolve()
        if not any(path.resolve().is_relative_to(root) for path in paths):
            return {}
        _, known = stored_of_run(classifier, settings)
    # The data may have changed since, or be gone; then all images are encoded.
    except (HeadstartError, OSError):
        return {}
    contents = dict(zip(paths, thread_imap(_content_of, paths), strict=True)) if known else {}
    return {path: known[sha256] for path, sha256 in contents.items() if sha256 in known}


def stored_of_run(classifier: ImageClassifier, settings: TrainSettings) -> tuple[Manifest, dict[str, Array]]:
    """Returns the images of a run, and their stored features of `classifier`, by the SHA-256 of their files.

    Raises:
        HeadstartError: the run stored no features, or its images are gone.
    """
    if (store := open_store(settings.features)) is None:
        raise HeadstartError("the run stored no features (features.cache=false)")
    manifest = preparation(settings)(settings.data, settings.data.seed).manifest
    transform, backbone = EvalTransform(classifier.recipe.preprocessing), classifier.recipe.backbone.identity()
    return manifest, features_by_content(store, manifest.splits, transform.spec, backbone)


def _content_of(path: Path) -> str | None:
    try:
        return hashlib.sha256(read_image_file(path)).hexdigest()
    except OSError:
        return None


def _write(paths: list[Path], matrix: Array, output: Path) -> Path:
    """Writes features.npy, and index.csv with the row, the path and the folder of each image."""
    with replacing(output / "features.npy") as temporary, temporary.open("wb") as file:
        np.save(file, matrix)
    rows = ((row, named(str(path)), path.parent.name) for row, path in enumerate(paths))
    write_csv(output / "index.csv", ("row", "path", "folder"), rows)
    return output / "features.npy"


def _write_parquet(paths: list[Path], matrix: Array, output: Path) -> Path:
    """Writes features.parquet with the columns path, folder and features."""
    import pyarrow  # type: ignore[import-not-found]
    from pyarrow import parquet

    # Parquet holds UTF-8 only, so other bytes of file names become replacement characters.
    names = [
        [str(part).encode("utf-8", "replace").decode() for part in (named(str(path)), path.parent.name)]
        for path in paths
    ]
    columns = {"path": [path for path, _ in names], "folder": [folder for _, folder in names], "features": list(matrix)}
    with replacing(output / "features.parquet") as temporary:
        parquet.write_table(pyarrow.table(columns), temporary)
    return output / "features.parquet"
