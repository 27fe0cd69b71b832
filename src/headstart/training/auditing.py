"""The audit of the data: as a task of its own, and as the first and last step of a training."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_only

from headstart.data.audit import Finding, in_order
from headstart.data.manifest import Manifest, describe_listing
from headstart.data.near_duplicates import near_duplicates, stored_features
from headstart.data.ready import Examined, Ready, examine, make_ready
from headstart.data.transforms import EvalTransform
from headstart.errors import HeadstartError
from headstart.features.store import Array
from headstart.model.weights import knows_photographs
from headstart.report.audit import describe_findings, summary, write_audit
from headstart.settings import TrainSettings
from headstart.training.parts import data_module, feature_store, new_classifier, preprocessing_of
from headstart.training.trainer import build_trainer

REPORT = "audit.json"
FOUND = "looked for"
Features = dict[str, Array]


def audit(settings: TrainSettings) -> bool:
    """Prints what is wrong with the data and writes audit.json. Returns whether nothing spoils a result."""
    examined = examine(settings.data, settings.seed)
    usable = examined.listing.without({path for path, f in examined.facts.items() if f.fault is not None})
    manifest = describe_listing(usable, examined.facts)
    features, how = _features(settings, manifest)
    findings = in_order(examined.findings + (near_duplicates(manifest.splits, features) if features else []))
    path = Path(settings.run_dir) / REPORT
    write_audit(path, examined.listing, findings, near_duplicates=how)
    print(manifest.describe())
    if findings:
        print(describe_findings(findings))
    spoiling = sum(finding.spoils for finding in findings)
    print(f"near duplicates: {how}")
    print(f"findings that spoil a result: {spoiling}; notes: {len(findings) - spoiling}; all of them: {path}")
    return spoiling == 0


def read_data(settings: TrainSettings) -> tuple[Examined, Ready]:
    """The data of a run, audited; says what is wrong with them, and what was taken out of them.

    Raises:
        HeadstartError: they cannot be used, or a policy forbids it.
    """
    examined = examine(settings.data, settings.seed)
    ready = make_ready(examined, settings.data)
    _tell(settings, examined, ready)
    return examined, ready


@rank_zero_only
def write_report(
    folder: Path, examined: Examined, ready: Ready, *, how: str = "not looked for yet", near: Sequence[Finding] = ()
) -> None:
    """Writes audit.json: what was found, `near` duplicates and `how` they were looked for, and what was taken out."""
    findings = in_order([*examined.findings, *near])
    taken = {"skipped": ready.skipped, "dropped": ready.dropped}
    write_audit(folder / REPORT, examined.listing, findings, near_duplicates=how, **taken)


def looks_for_near_duplicates(settings: TrainSettings) -> bool:
    """Whether a training compares its features at its end: those of a frozen backbone that knows photographs."""
    wanted = settings.data.near_duplicates is not False and settings.finetune.first_epoch is None
    return wanted and settings.features.cache and knows_photographs(settings.model.weights)


@rank_zero_only
def report_near_duplicates(folder: Path, examined: Examined, ready: Ready, features: Features) -> None:
    """Compares the `features` of a run's data, and says and writes what is alike."""
    near = near_duplicates(ready.manifest.splits, features)
    write_report(folder, examined, ready, how=FOUND, near=near)
    if near:
        (line,) = summary(near)
        print(f"warning: {line}: see {folder / REPORT}", file=sys.stderr)


def _features(settings: TrainSettings, manifest: Manifest) -> tuple[Features | None, str]:
    """Features to compare, if there are any, and how they were come by or why not."""
    wanted, store = settings.data.near_duplicates, feature_store(settings.features)
    if wanted is False:
        return None, "not looked for (data.near_duplicates=false)"
    if wanted is True:
        return _encode(settings, manifest), FOUND
    transform = EvalTransform(preprocessing_of(settings.data)).spec
    found = stored_features(store, manifest.splits, transform) if store is not None else None
    if found is None:
        return None, "not looked for (a training does; or set data.near_duplicates=true)"
    return found, FOUND


def _encode(settings: TrainSettings, manifest: Manifest) -> Features:
    if not looks_for_near_duplicates(settings):
        raise HeadstartError(
            "data.near_duplicates=true needs features.cache=true, finetune=none, and model.weights that are neither "
            "null nor bundled"
        )
    classifier = new_classifier(settings, manifest)
    classifier.to(build_trainer(settings, []).strategy.root_device)
    return data_module(settings, manifest, classifier).unaugmented_features()


@rank_zero_only
def _tell(settings: TrainSettings, examined: Examined, ready: Ready) -> None:
    print(ready.manifest.describe(), flush=True)
    for paths, why in ((ready.skipped, "unreadable"), (ready.dropped, "also in valid or test")):
        if paths:
            print(f"left out, {why}: {', '.join(paths)}", flush=True)
    findings = [f for f in ready.findings if f.spoils or (f.kind == "imbalance" and settings.data.balance == "none")]
    for line in summary(findings):
        print(f"warning: {line}", file=sys.stderr)
