"""BatchNorm as a part of the convolutions before it, which leaves a compiler half as much to do."""

from collections import Counter

from torch import nn
from torch.nn.modules.conv import _ConvNd


def with_folded_batch_norm(network: nn.Module) -> nn.Module:
    """A network that computes the same as `network`, which is in eval mode and stays as it is.

    It is `network` itself if its code cannot be traced.
    """
    # They take a while to import, and only compiling needs them.
    from torch.fx import symbolic_trace
    from torch.fx.experimental.optimization import fuse

    try:
        traced = symbolic_trace(network)
        calls = Counter(node.target for node in traced.graph.nodes if node.op == "call_module")
        several = (traced.get_submodule(str(name)) for name, count in calls.items() if count > 1)
        # Another BatchNorm may follow each call.
        if any(isinstance(module, _ConvNd) for module in several):
            return network
        # In place: layers are replaced in what was traced, and none of them is changed.
        return fuse(traced, inplace=True, no_trace=True)
    # Tracing fails in any way that a network's own code does.
    except Exception:
        return network
