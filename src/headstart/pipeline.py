"""What a run does, in the order in which it does it."""

from headstart.auditing.report import AuditReport
from headstart.backbones.load import load_backbone
from headstart.config.train import TrainSettings
from headstart.data.manifest import Manifest
from headstart.data.prepare import prepare_data
from headstart.datasets.make import make_dataset
from headstart.errors import HeadstartError
from headstart.evaluation.predictions import write_predictions
from headstart.evaluation.views import predict_views
from headstart.log import log
from headstart.processes import first_on_node_first, from_first, rank
from headstart.report.run_record import RunRecord
from headstart.report.write import write_report
from headstart.startup import startup_seconds
from headstart.training.fit import fit


def train(settings: TrainSettings) -> dict[str, float]:
    """Trains a head, scores its best epoch once on the test split, and writes the run's folder.

    Returns:
        The contents of metrics.json.

    Raises:
        HeadstartError: the data, the weights, the checkpoint or a setting is invalid.
    """
    with RunRecord(settings, startup_seconds()) as record:
        with record.stage("data"):
            with first_on_node_first():
                make_dataset(settings.data, settings.data.seed)
                data = prepare_data(settings.data, settings.data.seed)
            _check_same_everywhere(data.manifest)
            audit = AuditReport(settings, data, compares=settings.finds_near_duplicates)
        with record.stage("model"), first_on_node_first():
            backbone = load_backbone(settings.model, settings.data, seed=settings.seed)
        with record.stage("fit"):
            fitted = fit(settings, data.manifest, backbone, [record, audit])
        with record.stage("test"):
            views = settings.evaluation.views
            predictions, averaging = predict_views(fitted.classifier, fitted.data, ("valid", "test"), views)
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


def _check_same_everywhere(manifest: Manifest) -> None:
    if from_first(manifest.fingerprint) != manifest.fingerprint:
        raise HeadstartError(
            f"process {rank() + 1} finds other images in {manifest.root} than the first: copy the same to every machine"
        )
