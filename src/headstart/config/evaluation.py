"""The section `evaluation`: what the valid and the test split are predicted from after the training."""

from dataclasses import dataclass

from headstart.config.constraints import constrained


@dataclass
class EvaluationSettings:
    views: int = constrained("a positive integer", lambda v: v > 0, default=1)
