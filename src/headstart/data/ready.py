"""From `data.*` to what a run trains on: made where it has a maker, audited, and with the policies obeyed."""

from dataclasses import dataclass

from headstart.data.audit import Finding, audit, leaks
from headstart.data.caltech import make_caltech
from headstart.data.inspection import Facts, inspect_all
from headstart.data.listing import Listing, read_listing
from headstart.data.manifest import Manifest, build_manifest
from headstart.data.shapes import make_shapes
from headstart.errors import HeadstartError, UnreadableImage
from headstart.settings import CaltechSettings, DataSettings, ShapesSettings


@dataclass(frozen=True)
class Examined:
    """A folder of pictures: what is there, what each file is, and what is wrong with it."""

    listing: Listing
    facts: dict[str, Facts]
    findings: list[Finding]


@dataclass(frozen=True)
class Ready:
    """What a run uses, the paths that were taken out of it by policy, and what is wrong with the rest."""

    manifest: Manifest
    skipped: tuple[str, ...]
    dropped: tuple[str, ...]
    findings: list[Finding]


def examine(settings: DataSettings, seed: int) -> Examined:
    """Makes the data if they are not there yet, and looks at every file.

    Raises:
        HeadstartError: they cannot be made, or the folder is not laid out as one of pictures.
    """
    if isinstance(settings, CaltechSettings):
        make_caltech(settings, seed)
    if isinstance(settings, ShapesSettings):
        make_shapes(settings, seed)
    listing = read_listing(settings.root, settings.split, seed)
    facts = inspect_all(listing.root, [path for _, _, path in listing.samples()])
    return Examined(listing, facts, audit(listing, facts))


def make_ready(examined: Examined, settings: DataSettings) -> Ready:
    """Obeys `on_unreadable` and `on_leak`.

    Raises:
        HeadstartError: names what stands against a run with these data.
    """
    listing, facts = examined.listing, examined.facts
    unusable = [finding for finding in examined.findings if finding.kind in UnreadableImage.FAULTS]
    if unusable and settings.on_unreadable == "error":
        raise _unreadable(listing, unusable)
    leaked = leaks(listing, facts)
    if leaked and settings.on_leak == "error":
        raise HeadstartError(
            f"{_count(leaked, 'picture')} of the train split of {listing.root} are also in another split, such as "
            f"{leaked[0]}: see task=audit, remove the copies, or set data.on_leak=drop"
        )
    skipped = tuple(path for finding in unusable for path in finding.paths)
    dropped = tuple(leaked) if settings.on_leak == "drop" else ()
    used = listing.without({*skipped, *dropped})
    return Ready(build_manifest(used, facts), skipped, dropped, audit(used, facts))


def _unreadable(listing: Listing, unusable: list[Finding]) -> HeadstartError:
    path, reason = listing.root / unusable[0].paths[0], unusable[0].says
    others = f" (and {len(unusable) - 1} more: see task=audit)" if len(unusable) > 1 else ""
    return HeadstartError(
        f"{path} cannot be read as a picture: {reason}{others}; repair or remove it, or go on without by "
        "data.on_unreadable=skip"
    )


def _count(items: list[str], noun: str) -> str:
    return f"{len(items)} {noun}{'s' if len(items) > 1 else ''}"
