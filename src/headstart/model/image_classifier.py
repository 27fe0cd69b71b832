"""Images → log-probabilities: backbone, head, temperature; how familiar an image is, and what was looked at."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth
from torchvision.transforms.v2.functional import to_pil_image

from headstart.backbones.backbone import Backbone
from headstart.config.model import MEAN, EncoderSettings
from headstart.config.train import TrainSettings
from headstart.data.dataset import IGNORED
from headstart.data.manifest import Manifest
from headstart.data.splits import derive_seed
from headstart.features.encoder import Encoder
from headstart.features.source import FeatureSource
from headstart.model.closed_form import CLOSED_FORM_HEADS, ClosedForm, Ridge, scale
from headstart.model.recipe import Recipe
from headstart.processes import rank, world_size

# Dropout in several processes: what one process would drop of the batches of all of them.


def seed_dropout(seed: int, device: torch.device) -> None:
    """Seeds the random numbers of `device`; torch.manual_seed looks for GPUs too, which takes as long as a step."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


class Dropout(nn.Dropout):
    """Drops as nn.Dropout, by a mask that every process draws for the batches of all, and uses its own rows of."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        mask = super().forward(input.new_ones(len(input) * world_size(), *input.shape[1:]))
        return input * mask[rank() :: world_size()]


class DropPath(StochasticDepth):
    """Drops as torchvision's StochasticDepth, by such a mask."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        mask = super().forward(input.new_ones(len(input) * world_size(), *(1,) * (input.ndim - 1)))
        return input * mask[rank() :: world_size()]


def drop_as_one_process(network: nn.Module) -> None:
    """Replaces the network's layers of these kinds."""
    # Also where one layer stands in several places.
    for path, layer in list(network.named_modules(remove_duplicate=False)):
        parent, _, name = path.rpartition(".")
        if type(layer) is nn.Dropout:
            setattr(network.get_submodule(parent), name, Dropout(layer.p, layer.inplace).train(layer.training))
        elif type(layer) is StochasticDepth:
            setattr(network.get_submodule(parent), name, DropPath(layer.p, layer.mode).train(layer.training))


def build_head(recipe: Recipe, embedding_dim: int) -> nn.Sequential:
    """Features (N, embedding_dim) → log-probabilities (N, classes); the last layer is LogSoftmax."""
    return nn.Sequential(*SCORES[recipe.head](recipe, embedding_dim), nn.LogSoftmax(dim=1))


def setting_of(head: nn.Sequential) -> str:
    """Returns what a closed-form head chose when it was fitted, in words; "" for one that is only trained."""
    return head[0].setting if isinstance(head[0], ClosedForm | MlpAndRidge) else ""


def _mlp(recipe: Recipe, embedding_dim: int) -> list[nn.Module]:
    return [
        nn.Linear(embedding_dim, recipe.hidden_dim),
        nn.ReLU(),
        Dropout(recipe.dropout),
        nn.Linear(recipe.hidden_dim, len(recipe.classes)),
    ]


def _closed_form(kind: str, recipe: Recipe, embedding_dim: int) -> list[nn.Module]:
    return [CLOSED_FORM_HEADS[kind](embedding_dim, len(recipe.classes))]


class MlpAndRidge(nn.Module):
    """Features (N, d) → scores (N, classes) of an MLP; in eval mode, log-probabilities, with ridge regression's.

    The two make different mistakes, so the mean of their probabilities is usually better than either. Training does
    not see the mean: it trains the MLP as `model.head=mlp` does. `ridge` is fitted before the first epoch.
    """

    def __init__(self, recipe: Recipe, embedding_dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(*_mlp(recipe, embedding_dim))
        self.ridge = Ridge(embedding_dim, len(recipe.classes))

    def forward(self, features: Tensor) -> Tensor:
        scores = self.mlp(features)
        if self.training:
            return scores
        by_ridge = F.log_softmax(self.ridge(features), dim=1)
        return torch.logaddexp(F.log_softmax(scores, dim=1), by_ridge) - math.log(2)

    def evidence(self, features: Tensor) -> Tensor:
        """Returns the sums (N, classes) of both scores, whose gradients do not vanish where the two are sure."""
        return self.mlp(features) + self.ridge(features)

    @property
    def setting(self) -> str:
        """Returns the setting that ridge regression chose, in words."""
        return f"{self.ridge.setting} of ridge"


# The layers that give the scores, for each value of `model.head`.
SCORES: dict[str, Callable[[Recipe, int], list[nn.Module]]] = {
    "mlp": _mlp,
    "linear": lambda recipe, embedding_dim: [nn.Linear(embedding_dim, len(recipe.classes))],
    **{kind: partial(_closed_form, kind) for kind in CLOSED_FORM_HEADS},
    MEAN: lambda recipe, embedding_dim: [MlpAndRidge(recipe, embedding_dim)],
}


# The share of new images, of the same source as the validation images, that count as unusual, and how many images it
# takes to say from which score on.
UNUSUAL = 0.05
FEWEST = 19


class Familiarity(nn.Module):
    """Features (N, d) → scores (N) from -1 to 1: the cosine similarity to the nearest class mean.

    Below `threshold`, an image is unusual: so are 5 % of new images of the same source.

    Features and means are centred on the mean of the training features. The means are of the features that an epoch
    was trained on; `threshold` is -inf until it is fitted.
    """

    center: Tensor
    directions: Tensor
    threshold: Tensor

    def __init__(self, classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(embedding_dim))
        # Of unit length; of a class without images, zeros.
        self.register_buffer("directions", torch.zeros(classes, embedding_dim))
        self.register_buffer("threshold", torch.tensor(-torch.inf))
        self.reset()

    def reset(self) -> None:
        """Discards what was observed."""
        # Not buffers, because an average of the weights would average these too.
        self._sums, self._counts = torch.zeros_like(self.directions), torch.zeros(len(self.directions))

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor) -> None:
        """Adds a training batch, except for what has the label IGNORED."""
        if world_size() > 1:
            features, labels = features[labels != IGNORED], labels[labels != IGNORED]
        self._sums = self._sums.to(features.device).index_add_(0, labels, features.detach())
        self._counts = self._counts.to(features.device) + torch.bincount(labels, minlength=len(self._counts))

    @property
    def observed(self) -> tuple[Tensor, Tensor]:
        """The sum of the features (classes, d) and the number of images (classes) observed of each class."""
        return self._sums, self._counts

    @torch.no_grad()
    def fit_means(self, sums: Tensor, counts: Tensor) -> None:
        """From what was observed, by all processes together. Nothing changes if that is nothing."""
        if not counts.sum():
            return
        present = counts > 0
        self.center.copy_(sums.sum(0) / counts.sum())
        means = sums[present] / counts[present, None] - self.center
        self.directions.zero_()[present] = F.normalize(means)

    @torch.no_grad()
    def fit_threshold(self, scores: Tensor) -> None:
        """From the scores (N) of the validation images.

        A new image is below the k-th lowest of N exchangeable scores with probability k / (N + 1), between two of them
        in proportion (Weibull's plotting positions). Below 1 / UNUSUAL - 1 scores, nothing is known.
        """
        if self.directions.any() and len(scores) >= FEWEST:
            place = UNUSUAL * (len(scores) + 1) - 1
            self.threshold.copy_(scores.double().quantile(place / (len(scores) - 1)))

    def forward(self, features: Tensor) -> Tensor:
        similarities = F.normalize(features - self.center) @ self.directions.T
        is_missing = ~self.directions.any(1)
        # Rounding lets the cosine of equal directions exceed 1.
        return similarities.masked_fill(is_missing, -1.0).amax(1).clamp(-1, 1)


ENCODER = "encoder."
# Where a checkpoint holds weights: those to use and, if these are averages, those being trained.
STATES = {"state_dict", "current_model_state"}


class ImageClassifier(nn.Module):
    """Images (uint8, N×3×H×W) or their features (float, N×embedding_dim) → log-probabilities (N, classes).

    Its checkpoints leave out the frozen part of the backbone, which `Recipe.backbone` identifies.
    """

    temperature: Tensor

    def __init__(self, backbone: Backbone, recipe: Recipe, features: EncoderSettings) -> None:
        super().__init__()
        self.recipe = recipe
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(derive_seed("head", recipe.seed))
            self.head = build_head(recipe, backbone.embedding_dim)
        # Both are fitted on each epoch's validation; the best epoch's checkpoint has those for its weights.
        self.register_buffer("temperature", torch.tensor(1.0))
        self.familiarity = Familiarity(len(recipe.classes), backbone.embedding_dim)
        self.encoder = Encoder(backbone, precision=features.precision, compile=features.compile)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.embed(x))

    def embed(self, x: Tensor) -> Tensor:
        """Images or their features → features (N, embedding_dim)."""
        return x if x.ndim == 2 else self.encoder(x)

    def predict_log_proba(self, x: Tensor) -> Tensor:
        """Returns the logarithm of `predict_proba`, (N, classes)."""
        return scale(self(x), self.temperature)

    def predict_proba(self, x: Tensor) -> Tensor:
        """Images (uint8, N×3×H×W) or features (float, N×embedding_dim) → calibrated probabilities (N, classes)."""
        return self.predict_log_proba(x).exp()

    @property
    def backbone(self) -> Backbone:
        """Returns the network that `encoder` runs."""
        return self.encoder.backbone

    def feature_source(self, settings: TrainSettings, manifest: Manifest) -> FeatureSource:
        """Returns what gives the classifier its batches of the images of `manifest`."""
        return FeatureSource(
            settings,
            manifest,
            self.encoder,
            self.recipe.preprocessing,
            augments=not self.recipe.is_closed_form,
            frozen_epochs=self.recipe.finetune.first_epoch,
        )

    def restore(self, checkpoint: dict[str, Any]) -> "ImageClassifier":
        """Loads the weights in `checkpoint`, as returned by `headstart.model.checkpoint.read_checkpoint`."""
        self._complete(checkpoint)
        self.load_state_dict(checkpoint["state_dict"])
        return self

    def _complete(self, checkpoint: dict[str, Any]) -> None:
        """Adds the frozen weights that checkpoints leave out, in place."""
        missing = {key: value for key, value in self.state_dict().items() if key.startswith(ENCODER)}
        for part in STATES & checkpoint.keys():
            checkpoint[part] = missing | checkpoint[part]


# Which parts of an image speak for a class.

# Pixels per side of the cells over which a gradient is averaged.
CELL = 16
# How much of an image shows where its map is 0 and where it is 1, and under which colours.
SHOWN = (0.35, 0.75)
COLD, HOT = np.array((20.0, 30.0, 90.0)), np.array((255.0, 170.0, 0.0))


def saliency_maps(classifier: ImageClassifier, images: Tensor, classes: Tensor) -> Tensor:
    """Returns maps (N, h, w) from 0 to 1 of what speaks for `classes` (N) in `images` (uint8, N×3×H×W).

    They are class activation maps (Selvaraju et al. 2017, "Grad-CAM") or, of networks without feature maps, gradients.
    """
    backbone, images = classifier.backbone, images.to(classifier.encoder.device)
    # What precedes LogSoftmax, whose gradient vanishes where it is sure.
    head = classifier.head
    scores_of = head[0].evidence if isinstance(head[0], MlpAndRidge) else head[:-1]
    layer = _last_feature_map(backbone, images[:1])
    with torch.enable_grad(), torch.inference_mode(False):
        if layer is None:
            inputs = images.float().requires_grad_()
            scores = scores_of(backbone.forward(inputs))
            (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), inputs)
            pixels = gradient.abs().sum(1, keepdim=True)
            maps = F.avg_pool2d(pixels, CELL, ceil_mode=True, count_include_pad=False)[:, 0]
        else:
            with _captured(layer) as captured:
                scores = scores_of(backbone.forward(images.clone()))
            (gradient,) = torch.autograd.grad(scores.gather(1, classes[:, None]).sum(), captured)
            weights = gradient.mean((2, 3), keepdim=True)
            maps = (weights * captured[0].detach()).sum(1).relu()
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def overlay(seen: Tensor, saliency: Tensor) -> Image.Image:
    """Returns `seen` (uint8, 3×H×W) coloured by its map (h, w): dark blue where it is 0, orange where it is 1."""
    plain = to_pil_image(seen)
    small = Image.fromarray((saliency.numpy() * 255).astype(np.uint8))
    heat = np.asarray(small.resize(plain.size, Image.Resampling.BICUBIC), np.float64)[..., None] / 255
    shown = SHOWN[0] + heat * (SHOWN[1] - SHOWN[0])
    colours = COLD + heat * (HOT - COLD)
    return Image.fromarray((shown * np.asarray(plain) + (1 - shown) * colours).astype(np.uint8))


def _last_feature_map(backbone: Backbone, image: Tensor) -> nn.Module | None:
    """Returns the last layer with a feature map (N, C, h, w); None if the network goes on with tokens (N, L, C)."""
    last: list[nn.Module | None] = [None]

    def see(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            last[0] = module
        elif isinstance(output, Tensor) and output.ndim == 3:
            last[0] = None

    handles = [module.register_forward_hook(see) for module in backbone.network.modules()]
    try:
        with torch.no_grad():
            backbone.forward(image)
    finally:
        for handle in handles:
            handle.remove()
    return last[0]


@contextmanager
def _captured(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Yields a list for the output of `layer`, from which gradients are computed."""
    captured: list[Tensor] = []

    def capture(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        captured[:] = [output.detach().requires_grad_()]
        # A copy, because the next layer may work in place.
        return captured[0].clone()

    handle = layer.register_forward_hook(capture)
    try:
        yield captured
    finally:
        handle.remove()
