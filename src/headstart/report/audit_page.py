"""The page of an audit: each kind of finding with examples, and what there is of each class."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import ScalarFormatter

from headstart.auditing.findings import ADVICE, Finding
from headstart.auditing.report import COMPARED
from headstart.data.folders import is_file
from headstart.data.images import read_rgb
from headstart.data.manifest import Manifest
from headstart.data.prepare import PreparedData
from headstart.errors import UnreadableImage
from headstart.files import REPORT, claim, write_text
from headstart.report.style import BLUE, GREEN, GREY, ORANGE, drawing, families, image_uri, png_uri, render, short, tidy
from headstart.run_folder import RunFolder
from headstart.text import counted

EXAMPLES = 12  # findings of each kind
MOST_CLASSES = 40
COLOURS = {"train": BLUE, "valid": ORANGE, "test": GREEN}


def write_audit_page(run: RunFolder, data: PreparedData, findings: list[Finding], compared: str) -> None:
    """Writes `run.page` and its charts."""
    claim(run.report, REPORT)
    charts = {name: run.report / f"{name}.png" for name in ("classes", "sizes")}
    counts = Counter((sample.split, sample.class_name) for sample in data.scan.samples)
    _draw_classes(counts, charts["classes"])
    usable = [info for info in data.infos.values() if info.fault is None]
    _draw_sizes([(info.width, info.height) for info in usable], charts["sizes"])
    class_count = len({name for _, name in counts})
    page = render(
        "audit.html.jinja",
        title=f"Audit of {data.scan.root.name}",
        subtitle=f"{counted(len(data.infos), 'image')}, {counted(class_count, 'class', 'classes')}",
        essence=list(_essence(findings, compared)),
        charts={name: png_uri(path) for name, path in charts.items()},
        kinds=list(_kinds(data.manifest, findings)),
        class_count=class_count,
        hidden_classes=class_count > MOST_CLASSES,
        footer="Made by headstart; audit.json lists all findings.",
    )
    write_text(run.page, page)


def _essence(findings: list[Finding], compared: str) -> Iterator[str]:
    for severity in ("error", "warning"):
        kinds = Counter(finding.kind for finding in findings if finding.severity == severity)
        listed = ", ".join(f"{kind} ({count})" for kind, count in kinds.most_common())
        yield f"{counted(kinds.total(), severity)}: {listed}." if kinds else f"There are no {severity}s."
    yield f"Near duplicates and outliers were {'looked for' if compared == COMPARED else compared}."


def _kinds(manifest: Manifest, findings: list[Finding]) -> Iterator[dict[str, Any]]:
    for name, group in groupby(findings, key=lambda finding: finding.kind):
        of_kind = list(group)
        yield {
            "name": name,
            "severity": of_kind[0].severity,
            "advice": ADVICE[name],
            "count": len(of_kind),
            "hidden": max(0, len(of_kind) - EXAMPLES),
            "findings": [
                {"paths": of.paths, "says": of.says, "images": [*_thumbnails(manifest, of.paths)]}
                for of in of_kind[:EXAMPLES]
            ],
        }


def _thumbnails(manifest: Manifest, paths: Iterable[str]) -> Iterator[str]:
    """Yields those images that can be read as data URIs."""
    for file in (manifest.root / path for path in paths):
        if is_file(file):
            with suppress(UnreadableImage):
                yield image_uri(read_rgb(file, manifest.depth))


def _draw_classes(counts: Counter[tuple[str, str]], path: Path) -> None:
    """Draws how many images each class has in each split; of many classes, the largest and the smallest."""
    totals: Counter[str] = Counter()
    for (_, name), count in counts.items():
        totals[name] += count
    ranked = [name for name, _ in totals.most_common()]
    shown = ranked if len(ranked) <= MOST_CLASSES else ranked[: MOST_CLASSES // 2] + ranked[-MOST_CLASSES // 2 :]
    with drawing(path, 7, 1.0 + 0.22 * len(shown)) as figure:
        axes = figure.subplots()
        left = np.zeros(len(shown))
        for split in dict.fromkeys(split for split, _ in counts):
            widths = np.array([counts[split, name] for name in shown])
            axes.barh(range(len(shown)), widths, left=left, color=COLOURS.get(split, GREY), height=0.75, label=split)
            left += widths
        names = [short(name) for name in shown]
        axes.set_yticks(range(len(shown)), names, size=8, family=families(names))
        axes.invert_yaxis()
        axes.set_xlabel("images")
        if len({split for split, _ in counts}) > 1:
            axes.legend()
        tidy(axes)


def _draw_sizes(sizes: list[tuple[int, int]], path: Path) -> None:
    """Draws width by height, in pixels; the area of a dot is proportional to the number of images of that size."""
    counts = Counter(sizes)
    with drawing(path, 7, 4) as figure:
        axes = figure.subplots()
        if counts:
            widths, heights = np.array(list(counts)).T
            areas = 8 + 400 * np.array(list(counts.values())) / len(sizes)
            axes.scatter(widths, heights, s=areas, color=BLUE, alpha=0.5)
            axes.set_xscale("log")
            axes.set_yscale("log")
            for axis in (axes.xaxis, axes.yaxis):
                axis.set_major_formatter(ScalarFormatter())
                axis.set_minor_formatter(ScalarFormatter())
        axes.set_xlabel("width in pixels")
        axes.set_ylabel("height in pixels")
        tidy(axes)
