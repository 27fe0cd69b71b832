"""Epochs as people see them, counted from 1. Lightning's own, such as `Trainer.current_epoch`, count from 0."""

from typing import Any

from pytorch_lightning import Trainer

FIRST = 1
KEY = "first_epoch"


def epoch_number(trainer: Trainer) -> int:
    """The number of the current epoch; after a fit, one more than that of the last."""
    return trainer.current_epoch + FIRST


def marked(state: dict[str, Any]) -> dict[str, Any]:
    """A callback's state for a checkpoint, with a mark that says from where its epochs count."""
    return state | {KEY: FIRST}


def offset_of(state: dict[str, Any]) -> int:
    """What to add to the epochs in a callback's state: those of version 0.1, which has no mark, count from 0."""
    return FIRST - int(state.get(KEY, 0))
