"""The new layers that are trained on the backbone's features."""

from torch import nn


def build_head(embedding_dim: int, hidden_dim: int, classes: int, dropout: float) -> nn.Sequential:
    """Features (N, embedding_dim) → log-probabilities (N, classes)."""
    return nn.Sequential(
        nn.Linear(embedding_dim, hidden_dim),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden_dim, classes),
        nn.LogSoftmax(dim=1),
    )
