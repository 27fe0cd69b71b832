"""ONNX models: converted from a traced classifier, with images of any size, and with 8-bit weights."""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx.compose
import torch
from onnx import ModelProto, TensorProto
from onnxruntime.quantization import CalibrationDataReader, quantize_static  # type: ignore[import-untyped]
from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]
from onnxscript import OpBuilder, build_graph, ir
from torch.export import ExportedProgram

from headstart.data.preprocessing import Array, Preprocessing
from headstart.errors import HeadstartError
from headstart.export.model_file import INPUT, OUTPUTS, ModelInfo

LARGEST = 2**31 - 1  # bytes of a protocol buffer, which an ONNX file is


def to_onnx(program: ExportedProgram) -> ModelProto:
    """Returns `program` as an ONNX model that contains its weights.

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
    """Writes `model` to `path`, with one metadata property per key of `info`, as JSON."""
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in info.as_dict().items()})
    path.write_bytes(model.SerializeToString())


def _name_batch(model: ModelProto) -> None:
    """Names the batch dimension "batch" wherever it occurs, in place of the tracer's own name."""
    graph = model.graph
    traced = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param == traced:
                dimension.dim_param = "batch"


@contextmanager
def silent() -> Iterator[None]:
    """Suppresses the warnings of PyTorch, onnxscript and ONNX Runtime, which are for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# The resize and crop of headstart.data.preprocessing, as the first nodes of an ONNX model.

# ONNX's names, with the settings by which its filters are Pillow's.
MODES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    "bicubic": {"mode": "cubic", "antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5},
    "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
}
SPATIAL_AXES = [2, 3]


def add_resize(model: ModelProto, preprocessing: Preprocessing) -> None:
    """Makes `model` take one RGB image of any size, uint8 (H, W, 3), in place of a batch of prepared ones."""
    graph, versions = model.graph, {entry.domain: entry.version for entry in model.opset_import}
    image = ir.Value(name="image", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape(["height", "width", 3]))
    prepare = partial(_resize_and_crop, preprocessing=preprocessing)
    steps = ir.to_proto(build_graph(prepare, [image], [ir.Value(name=INPUT)], opset_imports=versions))
    onnx.compose.add_prefix_graph(steps, "resize_", rename_inputs=False, rename_outputs=False, inplace=True)
    rest = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*steps.node, *rest])
    graph.initializer.extend(steps.initializer)
    graph.input.extend(steps.input)
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = 1


def _resize_and_crop(op: OpBuilder, image: ir.Value, preprocessing: Preprocessing) -> ir.Value:
    """Returns uint8 (1, 3, image_size, image_size)."""
    mode, target, crop = preprocessing.resize_mode, [preprocessing.resize_size] * 2, [preprocessing.image_size] * 2
    sizes: Any = target
    if mode != "squash":
        given = op.Shape(image, end=2)
        divisor = op.ReduceMax(given) if mode == "pad" else op.ReduceMin(given)
        # As Python's int(size * long / short); the side that is divided by gets just the size.
        sizes = op.Max(op.Div(op.Mul(given, target), divisor), [1])
    batch = op.Unsqueeze(op.Transpose(image, perm=[2, 0, 1]), [0])
    # In uint8 as in Pillow, which rounds between the two directions.
    resized = op.Resize(batch, None, None, sizes, axes=SPATIAL_AXES, **MODES[preprocessing.interpolation])
    if mode == "pad":
        missing = op.Sub(target, sizes)
        before = op.Div(missing, [2])
        pads = op.Concat(before, op.Sub(missing, before), axis=0)
        # ONNX pads every channel with the same value: zero, once the fill is subtracted. It is added again afterwards.
        fill = op.initializer(ir.tensor(np.array(preprocessing.fill, np.int32)[:, None, None]), "fill")
        differences = op.Sub(op.Cast(resized, to=TensorProto.INT32), fill)
        resized = op.Cast(op.Add(op.Pad(differences, pads, None, SPATIAL_AXES), fill), to=TensorProto.UINT8)
        sizes = target
    margins = op.Cast(op.Sub(sizes, crop), to=TensorProto.FLOAT)
    # To the even number, as Python rounds.
    start = op.Cast(op.Round(op.Mul(margins, 0.5)), to=TensorProto.INT64)
    return op.Slice(resized, start, op.Add(start, crop), SPATIAL_AXES)


# Eight-bit ONNX models: weights are rounded per channel, activations by their range on training images.

# The mean of the training features. The first node that reads it is fed by the backbone's output.
CENTER = "classifier.familiarity.center"
# Pooling and depthwise convolutions, which have few weights, keep their precision: with mobilenet_v2, rounding them
# costs more than all the rest (docs/export.md).
POOLING = ("ReduceMean", "GlobalAveragePool", "Reshape", "Flatten", "Squeeze")


def quantize(model: ModelProto, images: Iterable[Array]) -> ModelProto:
    """Returns `model` with its backbone in eight bits, except for its first layer; the head stays in float32.

    Args:
        images: uint8 (3, image_size, image_size), on which the ranges of activations are measured.
    """
    with tempfile.TemporaryDirectory() as folder, silent():
        plain, whole, done = (Path(folder, f"{name}.onnx") for name in ("plain", "whole", "quantized"))
        onnx.save(model, plain)
        # Folds BatchNorm into convolutions.
        quant_pre_process(str(plain), str(whole), skip_symbolic_shape=True)
        prepared = onnx.load(whole)
        quantize_static(
            prepared, done, _Images(images), nodes_to_quantize=list(_nodes_to_quantize(prepared)), per_channel=True
        )
        return onnx.load(done)


class _Images(CalibrationDataReader):
    """Feeds one image at a time."""

    def __init__(self, images: Iterable[Array]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Array] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def _nodes_to_quantize(model: ModelProto) -> Iterator[str]:
    """Yields the names of the backbone's nodes, except those that keep their precision."""
    backbone, nodes = _backbone(model), list(model.graph.node)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    first = next((place for place, node in enumerate(nodes) if node.op_type in ("Conv", "MatMul", "Gemm")), 0)
    for node in nodes[first + 1 :]:
        is_depthwise = node.op_type == "Conv" and shapes.get(node.input[1], (0, 0))[1] == 1
        if node.name in backbone and node.op_type not in POOLING and not is_depthwise:
            yield node.name


def _backbone(model: ModelProto) -> set[str]:
    """Returns the names of the nodes that the features depend on."""
    producers = {output: node for node in model.graph.node for output in node.output}
    (centering,) = (node for node in model.graph.node if CENTER in node.input)
    names: set[str] = set()
    waiting = [name for name in centering.input if name != CENTER]
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in names:
            names.add(node.name)
            waiting += node.input
    return names
