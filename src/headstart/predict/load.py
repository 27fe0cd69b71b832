"""headstart.load: the predictor of a checkpoint or of an exported model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.config.export import is_model_file
from headstart.errors import HeadstartError
from headstart.export.model_file import open_model
from headstart.predict.exported import ExportedPredictor
from headstart.predict.light_import import compiler_when_needed

if TYPE_CHECKING:
    from headstart.predict.predictor import Predictor


# Any stands for ExportedPredictor: what only a Predictor has can be used without a cast.
def load(path: str | Path, *, accelerator: str = "auto", **options: Any) -> "Predictor | Any":
    """The predictor of a checkpoint, as headstart.predict.predictor.load, or of a .onnx or .pt2 file of task=export.

    Args:
        accelerator: "auto", "cpu", "cuda" or "mps".
        options: of a checkpoint: precision, compile and weights.

    Raises:
        HeadstartError: there is no such file, it could not be used, or the machine does not have the accelerator.
    """
    path = Path(path).expanduser()
    if not is_model_file(str(path)):
        # It takes seconds to import, and an exported model may be used where PyTorch is not installed.
        with compiler_when_needed():
            from headstart.predict.predictor import load as load_checkpoint

        return load_checkpoint(path, accelerator=accelerator, **options)
    if options:
        raise HeadstartError(f"{', '.join(options)}: {path} is an exported model, in which that is fixed")
    return ExportedPredictor(open_model(path, accelerator))
