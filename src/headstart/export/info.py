"""What a model file says of itself, as plain values: the same in every format."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError

# Grows when a reader of the last one would go wrong.
FORMAT = 1


@dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    `compared` is how far it is from its checkpoint, a headstart.export.parity.Difference; None: not compared yet.
    """

    arch: str
    head: str
    weights_sha256: str
    temperature: float
    seed: int
    data_fingerprint: str
    headstart: str
    torch: str
    date: str
    compared: dict[str, Any] | None = None


@dataclass(frozen=True)
class ModelInfo:
    """Below the score `familiarity_threshold`, an image is unlike anything trained on; None: it is not known.

    `input` and `precision` are as in headstart.config.export.
    """

    classes: tuple[str, ...]
    preprocessing: Preprocessing
    familiarity_threshold: float | None
    input: str
    precision: str
    provenance: Provenance

    def as_dict(self) -> dict[str, Any]:
        """Numbers, strings, lists and dicts, with `format` and the provenance beside the other keys."""
        own = {
            "format": FORMAT,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.as_dict(),
            "familiarity_threshold": self.familiarity_threshold,
            "input": self.input,
            "precision": self.precision,
        }
        return own | asdict(self.provenance)

    @classmethod
    def from_dict(cls, values: dict[str, Any], path: Path) -> "ModelInfo":
        """The inverse of `as_dict`, of the file `path`.

        Raises:
            HeadstartError: headstart did not write it, or a newer version did.
        """
        try:
            if values["format"] > FORMAT:
                raise HeadstartError(f"{path} was written by a newer version of headstart ({values['headstart']})")
            return cls(
                tuple(values["classes"]),
                Preprocessing(**values["preprocessing"]),
                values["familiarity_threshold"],
                values["input"],
                values["precision"],
                Provenance(**{name: values[name] for name in Provenance.__dataclass_fields__}),
            )
        except (KeyError, TypeError, AttributeError):
            raise HeadstartError(f"{path} is not a model that headstart exported: its metadata are missing") from None
