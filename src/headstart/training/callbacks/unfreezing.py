"""What fine-tuning did: when each stage of the backbone was unfrozen, and whether it helped."""

from itertools import groupby
from typing import cast

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from headstart.backbones.backbone import Backbone
from headstart.metrics import UNFROZEN, Row, best_row
from headstart.model.classifier import Classifier, unfrozen_stages
from headstart.training.callbacks.history import History, say
from headstart.training.callbacks.progress import epoch_number

COMPARED = "valid/loss"


class Unfreezing(Callback):
    """Logs one line in each epoch that unfreezes stages, and one at the end that compares the epochs before and after.

    `history` has the epochs' metrics.
    """

    def __init__(self, history: History) -> None:
        self._history = history

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        classifier, epoch = cast(Classifier, pl_module), trainer.current_epoch
        finetune, stages = classifier.recipe.finetune, len(classifier.backbone.stages)
        before = unfrozen_stages(finetune, epoch - 1, stages) if epoch else 0
        now = unfrozen_stages(finetune, epoch, stages)
        if now > before and trainer.is_global_zero:
            say(trainer, f"epoch {epoch_number(trainer)}: unfroze {describe_stages(classifier.backbone, before, now)}")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (line := compare(self._history.rows)) and trainer.is_global_zero:
            say(trainer, line)


def compare(rows: list[Row]) -> str | None:
    """Whether fine-tuning helped: the best epoch before the first unfreezing against the best after it, in one line.

    None: there were no epochs before it, or none after it.
    """
    frozen = best_row((row for row in rows if not row.get(UNFROZEN)), COMPARED)
    tuned = best_row((row for row in rows if row.get(UNFROZEN)), COMPARED)
    if frozen is None or tuned is None:
        return None
    before, after = (f"{row[COMPARED]:.4f} (epoch {row['epoch']:.0f})" for row in (frozen, tuned))
    helped = "helped" if tuned[COMPARED] < frozen[COMPARED] else "did not help"
    return f"fine-tuning {helped}: best {COMPARED} {before} before the first stage was unfrozen, {after} after"


def describe_stages(backbone: Backbone, before: int, now: int) -> str:
    """The stages from `before` to `now`, counted from the top: "the top stage (layer4, 14,964,736 parameters)"."""
    added = range(before, now)
    parameters = sum(parameter.numel() for stage in added for parameter in backbone.parameters_of(stage))
    names = [_named(backbone.network, backbone.stages[-1 - stage]) for stage in added]
    if now == len(backbone.stages):
        what = "the rest of the backbone" if before else "the whole backbone"
        return f"{what} ({parameters:,} parameters)"
    which = "next" if before else "top"
    what = f"the {which} stage" if len(names) == 1 else f"the {which} {len(names)} stages"
    return f"{what} ({', '.join(names)}, {parameters:,} parameters)"


def _named(network: nn.Module, blocks: list[str]) -> str:
    """ "layer4" for layer4.0, layer4.1 and layer4.2 if these are all; "features.14–18" for a part of a container."""
    names = []
    for parent, group in groupby(blocks, key=lambda block: block.rpartition(".")[0]):
        children = [block.rpartition(".")[2] for block in group]
        siblings = network.get_submodule(parent).named_children()
        if parent and [name for name, child in siblings if list(child.parameters())] == children:
            names.append(parent)
        elif parent and len(children) > 1:
            names.append(f"{parent}.{children[0]}–{children[-1]}")
        else:
            names += [f"{parent}.{child}".lstrip(".") for child in children]
    return ", ".join(names)
