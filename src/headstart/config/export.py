"""The section `export`: what task=export writes."""

import importlib.util
from dataclasses import dataclass

from headstart.config.constraints import one_of
from headstart.errors import HeadstartError

FORMATS = ("onnx", "pt2")
PRECISIONS = ("float32", "float16", "int8")
# "model": a batch of images of the network's size; "any": one image of any size.
INPUTS = ("model", "any")
# What writing ONNX takes.
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
# Values of keys that are for ONNX alone.
ONNX_ONLY = {"precision": PRECISIONS[1:], "input": INPUTS[1:]}


@dataclass
class ExportSettings:
    """What is exported: to which format, "all" meaning both; `path` is that of the one file, null: in the run's folder.

    `precision` is that of the weights and of what the backbone computes with.
    """

    format: str = one_of(*FORMATS, "all", default="onnx")
    precision: str = one_of(*PRECISIONS, default="float32")
    input: str = one_of(*INPUTS, default="model")
    path: str | None = None

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats to write."""
        return FORMATS if self.format == "all" else (self.format,)

    def check(self) -> None:
        """Raises HeadstartError where two values contradict each other, or a package is missing."""
        missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
        if "onnx" in self.formats and missing:
            raise HeadstartError(
                f"export.format={self.format} needs {' and '.join(missing)}, not installed: python -m pip install "
                '-e ".[export]"'
            )
        for key, values in ONNX_ONLY.items():
            if (value := getattr(self, key)) in values and self.format != "onnx":
                raise HeadstartError(f"export.{key}={value} needs export.format=onnx")
        if self.path is None:
            return
        if self.format == "all":
            raise HeadstartError("export.path names one file: set export.format=onnx or pt2")
        if not self.path.lower().endswith(f".{self.format}"):
            raise HeadstartError(f"export.path={self.path} must end in .{self.format}, as export.format={self.format}")


def is_model_file(path: str) -> bool:
    """Whether it is an exported model, by its name."""
    return path.lower().endswith(tuple(f".{name}" for name in FORMATS))
