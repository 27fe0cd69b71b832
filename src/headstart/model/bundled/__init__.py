"""The backbone that comes with the project: trained by it, from nothing, on drawn pictures.

Beside each file of weights, a state_dict without classifier in float16, a JSON file tells where it comes from.
"""

import json
from pathlib import Path

from headstart.errors import HeadstartError
from headstart.files import sha256_of

BUNDLED = "bundled"  # what `model.weights` calls it
FOLDER = Path(__file__).parent


def bundled_file(arch: str) -> Path:
    """The file of weights of `arch`.

    Raises:
        HeadstartError: there is none, or it is not the one that its record tells of.
    """
    path = FOLDER / f"{arch}.pth"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.pth")))
        raise HeadstartError(f"model.weights={BUNDLED} is not there for model.arch={arch}, only for: {names}")
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    if sha256_of(path) != record["sha256"]:
        raise HeadstartError(f"{path} is damaged: install the project again")
    return path
