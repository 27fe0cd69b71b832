"""ONNX models: converted from a traced classifier, with images of any size, and with 8-bit weights."""

import json
import logging
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static  # type: ignore[import-untyped]
from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]
from torch.export import ExportedProgram

from headstart.data.preprocessing import Preprocessing
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

Array = np.ndarray[Any, np.dtype[Any]]
IMAGE = "image"
# ONNX's names, with the settings by which its filters are Pillow's.
MODES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    "bicubic": {"mode": "cubic", "antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5},
    "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
}
SPATIAL_AXES = np.array([2, 3], np.int64)


class _Nodes(list[NodeProto]):
    def add(self, kind: str, *inputs: str | Array, **attributes: Any) -> str:
        """Adds a node, and one for each input that is a constant; returns the name of its output."""
        names = [
            value if isinstance(value, str) else self.add("Constant", value=numpy_helper.from_array(value))
            for value in inputs
        ]
        output = f"resize_{len(self)}"
        self.append(helper.make_node(kind, names, [output], output, **attributes))
        return output


def add_resize(model: ModelProto, preprocessing: Preprocessing) -> None:
    """Makes `model` take one RGB image of any size, uint8 (H, W, 3), in place of a batch of prepared ones."""
    graph, nodes = model.graph, _Nodes()
    _crop(nodes, *_resize(nodes, preprocessing), preprocessing.image_size)
    nodes[-1].output[0] = graph.input[0].name
    rest = list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *rest])
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["height", "width", 3]))
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = 1


def _resize(nodes: _Nodes, preprocessing: Preprocessing) -> tuple[str, str | Array]:
    """Adds the resize, and the margins of "pad"; returns the image (1, 3, H, W) and its height and width."""
    resize_mode, target = preprocessing.resize_mode, np.full(2, preprocessing.resize_size, np.int64)
    sizes: str | Array = target
    if resize_mode != "squash":
        given = nodes.add("Shape", IMAGE, end=2)
        divisor = nodes.add("ReduceMax" if resize_mode == "pad" else "ReduceMin", given)
        # As Python's int(size * long / short); the side that is divided by gets just the size.
        quotients = nodes.add("Div", nodes.add("Mul", given, target), divisor)
        sizes = nodes.add("Max", quotients, np.ones(1, np.int64))
    channels_first = nodes.add("Transpose", IMAGE, perm=[2, 0, 1])
    batch = nodes.add("Unsqueeze", channels_first, np.zeros(1, np.int64))
    # In uint8 as in Pillow, which rounds between the two directions.
    resized = nodes.add("Resize", batch, "", "", sizes, axes=[2, 3], **MODES[preprocessing.interpolation])
    if resize_mode != "pad":
        return resized, sizes
    missing = nodes.add("Sub", target, sizes)
    before = nodes.add("Div", missing, np.full(1, 2, np.int64))
    pads = nodes.add("Concat", before, nodes.add("Sub", missing, before), axis=0)
    # ONNX pads every channel with the same value: zero, once the fill is subtracted. It is added again afterwards.
    fill = np.array(preprocessing.fill, np.int32)[:, None, None]
    differences = nodes.add("Sub", nodes.add("Cast", resized, to=TensorProto.INT32), fill)
    padded = nodes.add("Add", nodes.add("Pad", differences, pads, "", SPATIAL_AXES), fill)
    return nodes.add("Cast", padded, to=TensorProto.UINT8), target


def _crop(nodes: _Nodes, image: str, sizes: str | Array, image_size: int) -> None:
    crop = np.full(2, image_size, np.int64)
    margins = nodes.add("Cast", nodes.add("Sub", sizes, crop), to=TensorProto.FLOAT)
    # To the even number, as Python rounds.
    rounded = nodes.add("Round", nodes.add("Mul", margins, np.array(0.5, np.float32)))
    start = nodes.add("Cast", rounded, to=TensorProto.INT64)
    nodes.add("Slice", image, start, nodes.add("Add", start, crop), SPATIAL_AXES)


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
