"""The new layers on the backbone's features: trained step by step, or fitted at once in closed form."""

from collections.abc import Callable

from torch import nn

from headstart.model.dropout import Dropout
from headstart.model.neighbours import NearestNeighbours
from headstart.model.recipe import Recipe
from headstart.model.ridge import Ridge

ClosedForm = Ridge | NearestNeighbours


def build_head(recipe: Recipe, embedding_dim: int) -> nn.Sequential:
    """Features (N, embedding_dim) → log-probabilities (N, classes); the last layer is LogSoftmax."""
    return nn.Sequential(*SCORES[recipe.head](recipe, embedding_dim), nn.LogSoftmax(dim=1))


def setting_of(head: nn.Sequential) -> str:
    """What a closed-form head chose when it was fitted, in words; "" for one that is trained."""
    return head[0].setting if isinstance(head[0], ClosedForm) else ""


def _mlp(recipe: Recipe, embedding_dim: int) -> list[nn.Module]:
    return [
        nn.Linear(embedding_dim, recipe.hidden_dim),
        nn.ReLU(),
        Dropout(recipe.dropout),
        nn.Linear(recipe.hidden_dim, len(recipe.classes)),
    ]


# The layers that give the scores, for each value of `model.head`.
SCORES: dict[str, Callable[[Recipe, int], list[nn.Module]]] = {
    "mlp": _mlp,
    "linear": lambda recipe, embedding_dim: [nn.Linear(embedding_dim, len(recipe.classes))],
    "ridge": lambda recipe, embedding_dim: [Ridge(embedding_dim, len(recipe.classes))],
    "knn": lambda recipe, embedding_dim: [NearestNeighbours(embedding_dim, len(recipe.classes))],
}
