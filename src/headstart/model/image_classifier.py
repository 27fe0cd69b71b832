"""A backbone with a new head: what predicts. headstart.model.classifier trains it."""

from typing import Any

import torch
from torch import Tensor, nn

from headstart.backbones.backbone import Backbone
from headstart.config.features import EncoderSettings
from headstart.features.encoder import Encoder
from headstart.model.familiarity import Familiarity
from headstart.model.head import build_head
from headstart.model.recipe import Recipe
from headstart.model.temperature import scale
from headstart.seeds import derive_seed

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
        """The logarithm of `predict_proba`, (N, classes)."""
        return scale(self(x), self.temperature)

    def predict_proba(self, x: Tensor) -> Tensor:
        """Images (uint8, N×3×H×W) or features (float, N×embedding_dim) → calibrated probabilities (N, classes)."""
        return self.predict_log_proba(x).exp()

    @property
    def backbone(self) -> Backbone:
        """What `encoder` runs."""
        return self.encoder.backbone

    def restore(self, checkpoint: dict[str, Any]) -> "ImageClassifier":
        """Loads the weights in `checkpoint`, as returned by `headstart.model.checkpoint.read_checkpoint`."""
        self._complete(checkpoint)
        self.load_state_dict(checkpoint["state_dict"])
        return self

    def _complete(self, checkpoint: dict[str, Any]) -> None:
        """Adds the weights that checkpoints leave out, and what those of version 0.1 do not have, in place."""
        left_out = (ENCODER, "temperature", "familiarity.")
        missing = {key: v for key, v in self.state_dict().items() if key.startswith(left_out)}
        for part in STATES & checkpoint.keys():
            checkpoint[part] = missing | checkpoint[part]
