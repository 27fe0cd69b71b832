"""The resize and crop of headstart.data.preprocessing as the first nodes of an ONNX model."""

from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from headstart.data.preprocessing import Preprocessing

IMAGE = "image"
# ONNX's names, with the settings by which its filters are Pillow's.
MODES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    "bicubic": {"mode": "cubic", "antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5},
    "nearest": {"mode": "nearest", "nearest_mode": "round_prefer_ceil"},
}


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
        "half": np.array(0.5, np.float32),
    }
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = 1


def _nodes(preprocessing: Preprocessing, result: str) -> list[NodeProto]:
    sizes = "resize_size" if preprocessing.resize_mode == "squash" else "resized_sizes"
    steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
        ("Shape", [IMAGE], "sizes", {"end": 2}),
        # As Python's int(size * long / short); of the shorter side, just the size.
        ("ReduceMin", ["sizes"], "shorter", {}),
        ("Mul", ["sizes", "resize_size"], "products", {}),
        ("Div", ["products", "shorter"], "resized_sizes", {}),
        ("Transpose", [IMAGE], "channels_first", {"perm": [2, 0, 1]}),
        ("Unsqueeze", ["channels_first", "first_axis"], "one", {}),
        # In uint8 as in Pillow, which rounds between the two directions.
        ("Resize", ["one", "", "", sizes], "resized", {"axes": [2, 3]} | MODES[preprocessing.interpolation]),
        ("Sub", [sizes, "crop_size"], "margins", {}),
        ("Cast", ["margins"], "float_margins", {"to": TensorProto.FLOAT}),
        ("Mul", ["float_margins", "half"], "half_margins", {}),
        # To the even number, as Python's.
        ("Round", ["half_margins"], "rounded_margins", {}),
        ("Cast", ["rounded_margins"], "start", {"to": TensorProto.INT64}),
        ("Add", ["start", "crop_size"], "end", {}),
        ("Slice", ["resized", "start", "end", "spatial_axes"], result, {}),
    ]
    return [
        helper.make_node(kind, inputs, [output], f"resize_{output}", **attributes)
        for kind, inputs, output, attributes in steps
    ]
