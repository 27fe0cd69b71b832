"""How a comparison of backbones is told: as a table, and as files."""

from collections.abc import Sequence
from pathlib import Path

from headstart.commands import quoted
from headstart.comparing.candidate import Candidate, equals_of_first
from headstart.config.model import DEFAULT
from headstart.data.folds import FOLDS
from headstart.errors import listed
from headstart.evaluation.cross_validation import PROBES
from headstart.files import write_csv, write_json
from headstart.tables import render_table


def describe(candidates: Sequence[Candidate]) -> str:
    """A table of the ranked candidates, which of them cannot be told apart, and how to train with the first one."""
    header = ("rank", "backbone", "weights", *(f"{name} (95 %)" for name in PROBES), "images/s", "MB", "width")
    table = render_table(header, [_cells(rank, candidate) for rank, candidate in enumerate(candidates, 1)])
    failed = [f"{c.arch} ({c.shown_weights}) could not be compared: {c.reason}" for c in candidates if c.reason]
    best = candidates[0]
    if best.reason is not None:
        return "\n".join(failed)
    images = len(best.correct[best.head])
    told = [f"accuracy: {FOLDS}-fold cross-validation on the {images} images of train and valid", *_verdict(candidates)]
    overrides = [f"model.arch={best.arch}", *([] if best.weights == DEFAULT else [_weights_override(best)])]
    return "\n".join([table, *failed, *told, f"to train with the first: {' '.join(map(quoted, overrides))}"])


def write(candidates: Sequence[Candidate], path: Path) -> None:
    """Writes the ranked candidates as the CSV `path`, and as JSON beside it."""
    rows = [_values(candidate) for candidate in candidates]
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    write_csv(path, columns, [tuple(row.get(name, "") for name in columns) for row in rows])
    write_json(path.with_suffix(".json"), {"folds": FOLDS, "candidates": rows})


def _verdict(candidates: Sequence[Candidate]) -> list[str]:
    """What the paired test says; nothing if there is nothing to compare."""
    others = [candidate for candidate in candidates[1:] if candidate.reason is None]
    equals = equals_of_first(candidates)
    if not others:
        return []
    if not equals:
        return ["the first is better than the others by more than chance (exact McNemar test)"]
    names = listed([f"{candidate.arch} ({candidate.shown_weights})" for candidate in equals])
    return [f"cannot be told apart from the first (exact McNemar test): {names}"]


def _weights_override(candidate: Candidate) -> str:
    return f"model.weights={'null' if candidate.weights is None else candidate.weights}"


def _cells(rank: int, candidate: Candidate) -> tuple[str, ...]:
    if candidate.reason is not None:
        return ("-", candidate.arch, candidate.shown_weights, *[""] * (len(PROBES) + 3))
    intervals = {name: candidate.interval_of(name) for name in PROBES}
    return (
        str(rank),
        candidate.arch,
        candidate.shown_weights,
        *(f"{candidate.accuracy_of(name):.3f} ({low:.3f}–{high:.3f})" for name, (low, high) in intervals.items()),
        f"{candidate.images_per_second:.0f}",
        f"{candidate.megabytes:.1f}",
        str(candidate.embedding_dim),
    )


def _values(candidate: Candidate) -> dict[str, str | float]:
    named: dict[str, str | float] = {"backbone": candidate.arch, "weights": candidate.weights or "random"}
    if candidate.reason is not None:
        return named | {"reason": candidate.reason}
    low, high = candidate.interval
    by_head: dict[str, str | float] = {}
    for name in PROBES:
        lowest, highest = candidate.interval_of(name)
        values = {"accuracy": candidate.accuracy_of(name), "low": lowest, "high": highest}
        by_head |= {f"{name}_{what}": value for what, value in values.items()}
    best: dict[str, str | float] = {"head": candidate.head, "accuracy": candidate.accuracy, "low": low, "high": high}
    return (
        named
        | best
        | by_head
        | {
            "p_value": candidate.p_value,
            "images_per_second": round(candidate.images_per_second, 1),
            "megabytes": round(candidate.megabytes, 1),
            "embedding_dim": candidate.embedding_dim,
        }
    )
