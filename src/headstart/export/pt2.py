"""Programs of torch.export as files."""

import json
import warnings
from pathlib import Path

import torch
from torch.export import ExportedProgram

from headstart.export.info import ModelInfo
from headstart.export.model_file import PT2_INFO


def save_pt2(program: ExportedProgram, info: ModelInfo, path: Path) -> None:
    """Writes `program` to `path`, with what it says of itself."""
    with warnings.catch_warnings(), path.open("wb") as file:
        # About tensors that share memory, which are saved once each.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, file, extra_files={PT2_INFO: json.dumps(info.as_dict())})
