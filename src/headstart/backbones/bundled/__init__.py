"""The backbone that comes with headstart, which trained it from scratch on generated images.

Beside each weights file, a state_dict in float16 without a classifier, a JSON file records where it comes from.
"""

from pathlib import Path

from headstart.config.model import BUNDLED
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError
from headstart.files import read_json, sha256_of

FOLDER = Path(__file__).parent


def bundled_weights(arch: str) -> tuple[Path, Preprocessing]:
    """The weights file of `arch`, and the preprocessing it was trained with.

    Raises:
        HeadstartError: there is none, or it does not match its record.
    """
    path = FOLDER / f"{arch}.pth"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.pth")))
        raise HeadstartError(f"model.weights={BUNDLED} is not available for model.arch={arch}, only for: {names}")
    record = read_json(path.with_suffix(".json"))
    if sha256_of(path) != record["sha256"]:
        raise HeadstartError(f"{path} is damaged: install headstart again")
    return path, Preprocessing(**record["preprocessing"])
