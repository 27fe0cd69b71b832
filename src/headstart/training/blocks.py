"""Whether a head can be trained on blocks of batches: nothing else may happen between two steps of an epoch."""

from functools import partial

from headstart.config.model import CLOSED_FORM
from headstart.config.train import TrainSettings
from headstart.model.block_classifier import BlockClassifier
from headstart.model.closed_form import build_classifier
from headstart.training.fit import ClassifierBuilder

# The arguments of the Trainer, and the callbacks, that do nothing between steps.
ARGUMENTS = {"max_epochs", "min_epochs", "check_val_every_n_epoch", "num_sanity_val_steps", "log_every_n_steps"}
ARGUMENTS |= {"accelerator", "devices", "strategy", "num_nodes", "deterministic", "benchmark"}
ARGUMENTS |= {"enable_model_summary", "enable_progress_bar"}
CALLBACKS = {"early_stopping.EarlyStopping", "best_and_last.BestAndLast"}


def builder_of_trial(settings: TrainSettings) -> ClassifierBuilder:
    """What builds the fastest classifier for a trial with these settings; its results are the same."""
    if not trains_on_blocks(settings):
        return build_classifier
    return partial(BlockClassifier, batch_size=settings.data.batch_size)


def trains_on_blocks(settings: TrainSettings) -> bool:
    """Whether stored features are all that a step needs, and nothing that is configured happens between steps."""
    model = settings.model
    targets = {entry["_target_"] for entry in settings.callbacks.values() if entry is not None}
    return (
        settings.features.cache
        and settings.finetune.first_epoch is None
        and model.head not in CLOSED_FORM
        and (model.schedule, model.warmup) == ("constant", 0)
        and settings.trainer.keys() <= ARGUMENTS
        and targets <= {f"headstart.training.callbacks.{name}" for name in CALLBACKS}
    )
