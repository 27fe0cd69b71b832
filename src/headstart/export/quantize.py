"""Eight-bit ONNX models: weights per channel, activations by their range on training images."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto
from onnxruntime.quantization import CalibrationDataReader, quantize_static  # type: ignore[import-untyped]
from onnxruntime.quantization.shape_inference import quant_pre_process  # type: ignore[import-untyped]

from headstart.export.graph import INPUT
from headstart.export.onnx import silent

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
