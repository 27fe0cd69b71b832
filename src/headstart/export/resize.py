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
