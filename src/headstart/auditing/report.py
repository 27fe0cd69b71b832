"""What an audit found: as a table for the terminal, as warnings of a run, and as audit.json."""

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from headstart.auditing.findings import Finding, find_problems, in_order
from headstart.auditing.from_features import find_from_features, missing_groups
from headstart.auditing.kinds import MISSING_GROUPS, MISSING_VALUE
from headstart.auditing.near_duplicates import MOST_IMAGES
from headstart.config.train import TrainSettings
from headstart.data.folders import MADE, listed
from headstart.data.manifest import Manifest
from headstart.data.prepare import PreparedData
from headstart.files import write_json
from headstart.log import is_first_process, log
from headstart.run_folder import RunFolder
from headstart.tables import render_table

# Examples per kind on the terminal.
EXAMPLES = 3
# Whether near duplicates were looked for.
COMPARED, NOT_YET = "compared", "not compared yet"
TOO_MANY = f"not compared (more than {MOST_IMAGES:,} images; data.near_duplicates=true compares them)"


class AuditReport(Callback):
    """The audit of a run: warns about errors, writes audit.json, and looks for near duplicates after training.

    `compares` says whether it does the latter, for which the data module must have features.
    """

    def __init__(self, settings: TrainSettings, data: PreparedData, *, compares: bool) -> None:
        self._path = RunFolder(Path(settings.run_dir)).audit
        self._balance = settings.data.balance
        self._data = data
        self._is_too_much = is_too_much(settings, data.manifest)
        self._compares = compares and not self._is_too_much
        self._findings: list[Finding] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.begin()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._compares:
            features = trainer.datamodule.unaugmented_features()  # type: ignore[attr-defined]
            more = find_from_features(self._data.manifest.splits, features)
            more += missing_groups(self._data.manifest, more)
            log_findings([f for f in in_order(more) if f.severity == "error" or f.kind == MISSING_GROUPS])
            write_audit(self._path, self._data, in_order(self._findings + more), COMPARED)

    def begin(self) -> None:
        """Audits the data, warns about what is wrong with those that are used, and writes audit.json."""
        self._findings = find_problems(self._data)
        removed = {*self._data.manifest.skipped, *self._data.manifest.dropped}
        remaining = [finding for finding in self._findings if finding.remains_without(removed)]
        log_findings([f for f in remaining if f.severity == "error" or self._is_shown(f)])
        write_audit(self._path, self._data, self._findings, TOO_MANY if self._is_too_much else NOT_YET)

    def _is_shown(self, finding: Finding) -> bool:
        is_ignored_imbalance = finding.kind == "class imbalance" and self._balance == "none"
        return finding.kind == MISSING_VALUE or is_ignored_imbalance


def is_too_much(settings: TrainSettings, manifest: Manifest) -> bool:
    """Whether there are more images than are compared with one another unless it is asked for."""
    return settings.data.near_duplicates == "auto" and sum(map(len, manifest.splits.values())) > MOST_IMAGES


def log_findings(findings: list[Finding]) -> None:
    """Warns with one line per kind of finding, with the first example."""
    for kind, found in _by_kind(findings):
        more = f" (and {len(found) - 1} more: see task=audit)" if len(found) > 1 else ""
        log.warning("%s: %s%s", kind, _line(found[0]), more)


def findings_table(findings: list[Finding]) -> str:
    """Of each kind of finding its severity, how many there are, and some examples."""
    rows = []
    for kind, found in _by_kind(findings):
        rows.append((found[0].severity, str(len(found)), kind))
        rows += [("", "", f"  {_line(finding)}") for finding in found[:EXAMPLES]]
        if len(found) > EXAMPLES:
            rows.append(("", "", f"  … and {len(found) - EXAMPLES} more"))
    return render_table(("severity", "count", "finding"), rows)


def write_audit(path: Path, data: PreparedData, findings: list[Finding], compared: str) -> None:
    """Writes the findings as JSON, whether near duplicates were looked for, and what the policies removed."""
    scan = data.scan
    counts = Counter((sample.split, sample.class_name) for sample in scan.samples)
    content = {
        "root": str(scan.root),
        "clean": all(finding.severity != "error" for finding in findings),
        "images": {split: {name: counts[split, name] for name in names} for split, names in scan.classes.items()},
        "splits": scan.origins,
        "notes": scan.notes,
        "near_duplicates": compared,
        "skipped": data.manifest.skipped,
        "dropped": data.manifest.dropped,
        "made_by_headstart": [path for path, reason in scan.left_out.items() if reason == MADE],
        "findings": [{"kind": f.kind, "severity": f.severity, "paths": f.paths, "says": f.says} for f in findings],
    }
    if is_first_process():
        write_json(path, content)


def _by_kind(findings: list[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    yield from ((kind, list(group)) for kind, group in groupby(findings, key=lambda finding: finding.kind))


def _line(finding: Finding) -> str:
    where = listed(finding.paths)
    return f"{where}: {finding.says}" if where and finding.says else where or finding.says
