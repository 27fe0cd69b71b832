"""ONNX models: from a traced classifier, and as files."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch.export import ExportedProgram

from headstart.errors import HeadstartError
from headstart.export.graph import INPUT, OUTPUTS
from headstart.export.info import ModelInfo

# Protocol buffers, which the format consists of, hold no more.
LARGEST = 2**31 - 1


def to_onnx(program: ExportedProgram) -> ModelProto:
    """`program` as an ONNX model with its weights inside.

    Raises:
        HeadstartError: it is too large for one file.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if size > LARGEST:
        raise HeadstartError(
            f"its {size / 1e9:.1f} GB of weights do not fit into an ONNX file, which holds 2 GB: set "
            "export.precision=float16, or export.format=pt2"
        )
    with silent():
        exported = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=list(OUTPUTS), external_data=False, verbose=False
        )
    assert exported is not None
    model: ModelProto = exported.model_proto
    _name_batch(model)
    return model


def save_onnx(model: ModelProto, info: ModelInfo, path: Path) -> None:
    """Writes `model` to `path`, with what it says of itself: one property for each key, as JSON."""
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in info.as_dict().items()})
    path.write_bytes(model.SerializeToString())


def _name_batch(model: ModelProto) -> None:
    """Calls the first dimension "batch", whatever the tracer made of it."""
    graph = model.graph
    traced = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == traced:
                dimension.dim_param = "batch"


@contextmanager
def silent() -> Iterator[None]:
    """Without what PyTorch, onnxscript and ONNX Runtime say to their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
