"""The baseline: the training loop as in the tutorial (see README.md), or the same tuned by hand.

    python benchmarks/plain_loop.py DATA [--tuned] [--epochs N] [--predict N]

Prints JSON: the seconds of the process so far, of each epoch and of the test, and the images per second of training.
"""

import time

START = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
from contextlib import nullcontext  # noqa: E402
from pathlib import Path  # noqa: E402

import torch  # noqa: E402
import torchvision  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, Dataset  # noqa: E402
from torchvision import transforms as T  # noqa: E402

NORMALIZE = T.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TRAIN = T.Compose(
    [
        T.RandomResizedCrop(256, scale=(0.8, 1.0)),
        T.RandomRotation(15),
        T.RandomHorizontalFlip(),
        T.CenterCrop(224),
        T.ToTensor(),
        NORMALIZE,
    ]
)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Without units for it, it takes many times as long.
HAS_BF16 = DEVICE == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
EVALUATION = T.Compose([T.Resize(256), T.CenterCrop(224), T.ToTensor(), NORMALIZE])


class Images(Dataset):
    """The images `first` to `last` of each class, sorted by name."""

    def __init__(self, root: Path, first: int, last: int | None, transform: T.Compose) -> None:
        classes = sorted(folder for folder in root.iterdir() if folder.is_dir())
        self.samples = [(p, i) for i, c in enumerate(classes) for p in sorted(c.glob("*.jpg"))[first:last]]
        self.classes = len(classes)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        path, label = self.samples[index]
        return self.transform(Image.open(path).convert("RGB")), label


class Loop:
    """A ResNet50 with a new head, trained as in the tutorial; with `tuned`, as an experienced user would write it."""

    def __init__(self, classes: int, tuned: bool) -> None:
        self.tuned = tuned
        self.model = torchvision.models.resnet50(weights=None)
        for parameter in self.model.parameters():
            parameter.requires_grad = False
        self.model.fc = nn.Sequential(
            nn.Linear(2048, 256), nn.ReLU(), nn.Dropout(0.4), nn.Linear(256, classes), nn.LogSoftmax(dim=1)
        )
        if tuned:
            self.model.to(memory_format=torch.channels_last)
        self.model.to(DEVICE)
        self.loss = nn.NLLLoss()
        self.optimizer = torch.optim.Adam(self.model.fc.parameters())

    def autocast(self):
        return torch.autocast(DEVICE, torch.bfloat16) if self.tuned and HAS_BF16 else nullcontext()

    def loader(self, dataset: Dataset, shuffle: bool) -> DataLoader:
        workers = min(len(os.sched_getaffinity(0)), 8) if self.tuned else 0
        return DataLoader(dataset, batch_size=32, shuffle=shuffle, num_workers=workers)

    def train(self, dataset: Dataset) -> None:
        self.model.train()
        if self.tuned:
            self.model.eval()
            self.model.fc.train()
        for images, labels in self.loader(dataset, shuffle=True):
            if self.tuned:
                images = images.to(memory_format=torch.channels_last)
            self.optimizer.zero_grad()
            with self.autocast():
                loss = self.loss(self.model(images.to(DEVICE)), labels.to(DEVICE))
            loss.backward()
            self.optimizer.step()

    def evaluate(self, dataset: Dataset) -> float:
        self.model.eval()
        correct = 0
        with torch.no_grad():
            for images, labels in self.loader(dataset, shuffle=False):
                if self.tuned:
                    images = images.to(memory_format=torch.channels_last)
                with self.autocast():
                    correct += int((self.model(images.to(DEVICE)).argmax(1) == labels.to(DEVICE)).sum())
        return correct / len(dataset)  # type: ignore[arg-type]

    def predict(self, paths: list[Path]) -> None:
        self.model.eval()
        with torch.no_grad():
            for path in paths:
                image = EVALUATION(Image.open(path).convert("RGB"))
                self.model(image.unsqueeze(0).to(DEVICE)).exp().topk(3)


def seconds(action, *arguments) -> float:
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path)
    parser.add_argument("--tuned", action="store_true")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--predict", type=int, default=0, help="only predict this many images, one at a time")
    parser.add_argument("--train", type=int, default=50, help="images of each class")
    parser.add_argument("--valid", type=int, default=8, help="images of each class")
    options = parser.parse_args()
    first, second = options.train, options.train + options.valid
    train = Images(options.data, 0, first, TRAIN)
    valid, test = (Images(options.data, start, end, EVALUATION) for start, end in ((first, second), (second, None)))
    loop = Loop(train.classes, options.tuned)
    result: dict[str, object] = {}
    if options.predict:
        paths = [path for path, _ in [*train.samples, *valid.samples, *test.samples]]
        loop.predict((paths * 2)[: options.predict])
    else:
        training = [(seconds(loop.train, train), seconds(loop.evaluate, valid)) for _ in range(options.epochs)]
        result["epoch"] = [sum(parts) for parts in training]
        result["images_per_second"] = [len(train) / first for first, _ in training]
        result["test"] = seconds(loop.evaluate, test)
    print(json.dumps(result | {"process": time.perf_counter() - START}))


if __name__ == "__main__":
    main()
