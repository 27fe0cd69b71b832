"""What an audit found: as a table for the terminal, and as audit.json."""

from itertools import groupby
from pathlib import Path
from typing import Any

from headstart.data.audit import Finding
from headstart.data.listing import Listing
from headstart.files import write_json

EXAMPLES = 3


def describe_findings(findings: list[Finding]) -> str:
    """A block of lines a kind: how many, whether they spoil a result, and some of them."""
    lines = []
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        found = list(group)
        lines.append(f"{'spoils' if found[0].spoils else 'note':<6}  {len(found):>5} × {kind}")
        lines += [f"{'':>16}{_line(finding)}" for finding in found[:EXAMPLES]]
        if len(found) > EXAMPLES:
            lines.append(f"{'':>16}… and {len(found) - EXAMPLES} more")
    return "\n".join(lines)


def summary(findings: list[Finding]) -> list[str]:
    """A line a kind, with the first of its findings."""
    lines = []
    for kind, group in groupby(findings, key=lambda finding: finding.kind):
        found = list(group)
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        lines.append(f"{kind}: {_line(found[0])}{more}")
    return lines


def write_audit(path: Path, listing: Listing, findings: list[Finding], **more: Any) -> None:
    """Writes everything that was found, and `more`, as JSON."""
    pictures = {split: {name: len(p) for name, p in of.items()} for split, of in listing.pictures.items()}
    rows = [{"kind": f.kind, "spoils": f.spoils, "paths": f.paths, "says": f.says} for f in findings]
    clean = not any(finding.spoils for finding in findings)
    write_json(path, {"root": str(listing.root), "clean": clean, "pictures": pictures} | more | {"findings": rows})


def _line(finding: Finding) -> str:
    where = " and ".join(finding.paths)
    return f"{where}: {finding.says}" if where and finding.says else where or finding.says
