"""ONNX models: traced, with images of any size, and with 8-bit weights."""

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
from headstart.export.model_file import ModelInfo
from headstart.export.write import INPUT, OUTPUTS

# ONNX models: from a traced classifier, and as files.


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


# The resize and crop of headstart.data.preprocessing as the first nodes of an ONNX model.


IMAGE = "image"
# ONNX's names, with the settings by which its filters are Pillow's.
MODES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    "bicubic": {"mode": "cubic", "antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5},
    "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
}

Step = tuple[str, list[str], str, dict[str, Any]]
# The colour is taken from the image and given back to all of it, because margins have the same value in each channel.
PADDING: list[Step] = [
    ("Sub", ["resize_size", "resized_sizes"], "missing", {}),
    ("Div", ["missing", "two"], "before", {}),
    ("Sub", ["missing", "before"], "after", {}),
    ("Concat", ["before", "after"], "pads", {"axis": 0}),
    ("Cast", ["resized"], "integers", {"to": TensorProto.INT32}),
    ("Sub", ["integers", "fill"], "differences", {}),
    ("Pad", ["differences", "pads", "", "spatial_axes"], "padded_differences", {}),
    ("Add", ["padded_differences", "fill"], "padded_integers", {}),
    ("Cast", ["padded_integers"], "padded", {"to": TensorProto.UINT8}),
]


def add_resize(model: ModelProto, preprocessing: Preprocessing) -> None:
    """Makes `model` take one RGB image of any size, uint8 (H, W, 3), in place of a batch of prepared ones."""
    graph = model.graph
    nodes, rest = _nodes(preprocessing, graph.input[0].name), list(graph.node)
    del graph.node[:], graph.input[:]
    graph.node.extend([*nodes, *rest])
    graph.input.append(helper.make_tensor_value_info(IMAGE, TensorProto.UINT8, ["height", "width", 3]))
    constants: dict[str, np.ndarray[Any, np.dtype[Any]]] = {
        "resize_size": np.full(2, preprocessing.resize_size, np.int64),
        "crop_size": np.full(2, preprocessing.image_size, np.int64),
        "first_axis": np.zeros(1, np.int64),
        "spatial_axes": np.array([2, 3], np.int64),
        "one_pixel": np.ones(1, np.int64),
        "two": np.full(1, 2, np.int64),
        "half": np.array(0.5, np.float32),
        "fill": np.array(preprocessing.fill, np.int32)[:, None, None],
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = 1


def _nodes(preprocessing: Preprocessing, result: str) -> list[NodeProto]:
    squashes, pads = (preprocessing.resize_mode == mode for mode in ("squash", "pad"))
    resized = "resize_size" if squashes else "resized_sizes"
    whole, sizes = ("padded", "resize_size") if pads else ("resized", resized)
    steps: list[Step] = [
        ("Shape", [IMAGE], "sizes", {"end": 2}),
        # As Python's int(size * long / short); of the side that is divided by, just the size.
        ("ReduceMax" if pads else "ReduceMin", ["sizes"], "divisor", {}),
        ("Mul", ["sizes", "resize_size"], "products", {}),
        ("Div", ["products", "divisor"], "quotients", {}),
        ("Max", ["quotients", "one_pixel"], "resized_sizes", {}),
        ("Transpose", [IMAGE], "channels_first", {"perm": [2, 0, 1]}),
        ("Unsqueeze", ["channels_first", "first_axis"], "one", {}),
        # In uint8 as in Pillow, which rounds between the two directions.
        ("Resize", ["one", "", "", resized], "resized", {"axes": [2, 3]} | MODES[preprocessing.interpolation]),
        *(PADDING if pads else []),
        ("Sub", [sizes, "crop_size"], "margins", {}),
        ("Cast", ["margins"], "float_margins", {"to": TensorProto.FLOAT}),
        ("Mul", ["float_margins", "half"], "half_margins", {}),
        # To the even number, as Python's.
        ("Round", ["half_margins"], "rounded_margins", {}),
        ("Cast", ["rounded_margins"], "start", {"to": TensorProto.INT64}),
        ("Add", ["start", "crop_size"], "end", {}),
        ("Slice", [whole, "start", "end", "spatial_axes"], result, {}),
    ]
    return [
        helper.make_node(kind, inputs, [output], f"resize_{output}", **attributes)
        for kind, inputs, output, attributes in steps
    ]


# Eight-bit ONNX models: weights per channel, activations by their range on training images.


Array = np.ndarray[Any, np.dtype[Any]]
# What the features are centred on, the first thing that is done with them.
CENTER = "classifier.familiarity.center"
# What keeps its precision: the means that become the features, and depthwise convolutions, which have few weights.
# With mobilenet_v2, rounding them costs more than all the rest (docs/export.md).
POOLING = ("ReduceMean", "GlobalAveragePool", "Reshape", "Flatten", "Squeeze")


def quantized(model: ModelProto, images: Iterable[Array]) -> ModelProto:
    """`model` with its backbone in eight bits, but for its first layer; the head stays in float32.

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
    """One image at a time."""

    def __init__(self, images: Iterable[Array]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Array] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def _nodes_to_quantize(model: ModelProto) -> Iterator[str]:
    """The names of the backbone's nodes, but for those that keep their precision."""
    backbone, nodes = _backbone(model), list(model.graph.node)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    first = next((place for place, node in enumerate(nodes) if node.op_type in ("Conv", "MatMul", "Gemm")), 0)
    for node in nodes[first + 1 :]:
        is_depthwise = node.op_type == "Conv" and shapes.get(node.input[1], (0, 0))[1] == 1
        if node.name in backbone and node.op_type not in POOLING and not is_depthwise:
            yield node.name


def _backbone(model: ModelProto) -> set[str]:
    """The names of the nodes that the features depend on."""
    producers = {output: node for node in model.graph.node for output in node.output}
    (centering,) = (node for node in model.graph.node if CENTER in node.input)
    found: dict[str, NodeProto] = {}
    waiting = [name for name in centering.input if name != CENTER]
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in found:
            found[node.name] = node
            waiting += node.input
    return set(found)
