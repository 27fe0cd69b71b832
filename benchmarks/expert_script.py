"""An expert's script: each image is encoded once, and scikit-learn fits a logistic regression.

    python benchmarks/expert_script.py DATA [--arch ARCH] [--weights FILE] [--train N] [--valid N]

The penalty is chosen on valid. Prints JSON: the seconds of the process so far, and the test accuracy.
"""

import time

START = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
import torchvision  # noqa: E402
from plain_loop import DEVICE, EVALUATION, HAS_BF16, Images  # noqa: E402
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped] # noqa: E402
from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped] # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402


def load_network(arch: str, weights: Path | None) -> nn.Module:
    network = torchvision.models.get_model(arch, weights=None)
    if weights:
        network.load_state_dict(torch.load(weights, weights_only=True))
    name, _ = list(network.named_children())[-1]
    setattr(network, name, nn.Identity())
    return network.eval().to(DEVICE, memory_format=torch.channels_last)


@torch.inference_mode()
def encode(network: nn.Module, images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    features, labels = [], []
    with torch.autocast(DEVICE, torch.bfloat16, enabled=HAS_BF16):
        for batch, of_batch in DataLoader(images, batch_size=32, num_workers=2):
            features.append(network(batch.to(DEVICE, memory_format=torch.channels_last)).float().cpu())
            labels.append(of_batch)
    return torch.cat(features), torch.cat(labels)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--train", type=int, default=50, help="images of each class")
    parser.add_argument("--valid", type=int, default=8, help="images of each class")
    options = parser.parse_args()
    ends = (0, options.train, options.train + options.valid, None)
    network = load_network(options.arch, options.weights)
    splits = [encode(network, Images(options.data, ends[i] or 0, ends[i + 1], EVALUATION)) for i in range(3)]
    scaler = StandardScaler().fit(splits[0][0])
    (x, y), valid, test = ((scaler.transform(features), labels) for features, labels in splits)
    models = [LogisticRegression(C=c, max_iter=1000).fit(x, y) for c in (0.001, 0.01, 0.1, 1.0)]
    best = max(models, key=lambda model: model.score(*valid))
    print(json.dumps({"accuracy": best.score(*test), "process": time.perf_counter() - START}))


if __name__ == "__main__":
    main()
