"""Checkpoints, ensembles and bundles of them: plain values, and only in bundles the frozen weights."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from headstart.backbones.backbone import Backbone, BackboneSource, check_source, restore_backbone
from headstart.backbones.provider import read_safely
from headstart.config.model import EncoderSettings, FinetuneSettings
from headstart.data.preprocessing import Preprocessing
from headstart.errors import HeadstartError
from headstart.files import read_json
from headstart.log import log
from headstart.model.image_classifier import ImageClassifier
from headstart.model.recipe import Recipe
from headstart.run_folder import is_ensemble

# Where a bundle holds the weights of its backbone, as they were before any fine-tuning, and the bundle of an ensemble
# the checkpoints of its members.
HELD, MEMBERS = "backbone", "members"
# What of a checkpoint a bundle holds: the rest is for resuming.
KEPT = ("hyper_parameters", "state_dict", "versions", "epoch")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns the contents of one of headstart's checkpoints, read without running code.

    Raises:
        HeadstartError: the file is missing, damaged, unsafe, not a headstart checkpoint, one of another version, or the
            bundle of an ensemble.
    """
    checkpoint, *others = read_members(path)
    if others:
        raise HeadstartError(f"{path} is the bundle of an ensemble, which only predict.py, embed and task=demo take")
    return checkpoint


def read_members(path: Path) -> list[dict[str, Any]]:
    """Returns the checkpoints in the file `path`: one, or if it is the bundle of an ensemble, those of its members.

    Raises:
        HeadstartError: as `read_checkpoint`.
    """
    content = read_safely(path)
    try:
        members: list[dict[str, Any]] = content.get(MEMBERS) or [content]
        for checkpoint in members:
            _check_version(checkpoint, path)
            Recipe.from_dict(checkpoint["hyper_parameters"])
            if not all(isinstance(tensor, Tensor) for tensor in checkpoint.get(HELD, {}).values()):
                raise TypeError
    except (AttributeError, IndexError, KeyError, TypeError):
        raise HeadstartError(f"{path} is not a checkpoint written by headstart's train.py") from None
    return members


def check_loadable(path: Path, moved_to: str | None) -> None:
    """Raises HeadstartError, as `load_classifier` would, for all that can be known without a download."""
    for checkpoint in chain.from_iterable(map(read_members, checkpoints_of(path))):
        recipe = Recipe.from_dict(checkpoint["hyper_parameters"])
        check_source(recipe.backbone, moved_to=moved_to, is_held=HELD in checkpoint)


def load_classifier(path: Path, features: EncoderSettings, moved_to: str | None) -> ImageClassifier:
    """Returns the classifier in the checkpoint `path`, in eval mode, its backbone run as `features` says.

    A precision of "auto" is the one it was trained with, which is 32 if the backbone was trained too. If `moved_to` is
    a file, the backbone's weights come from there, unless the checkpoint is a bundle, which holds them.

    Raises:
        HeadstartError: as `read_checkpoint`, or the backbone's weights are missing or different.
    """
    return _classifier_in(read_checkpoint(path), features, moved_to, frozen=())


def _classifier_in(
    checkpoint: dict[str, Any], features: EncoderSettings, moved_to: str | None, frozen: Iterable[Backbone]
) -> ImageClassifier:
    """Returns the classifier; if one of the `frozen` backbones is its own, it is used."""
    recipe = Recipe.from_dict(checkpoint["hyper_parameters"])
    backbone = next((other for other in frozen if _is_of(other, recipe)), None) or _backbone_of(checkpoint, moved_to)
    _warn_about_other_versions(checkpoint, recipe, backbone)
    trained_with = recipe.precision if recipe.finetune.first_epoch is None else "32"
    precision = trained_with if features.precision == "auto" else features.precision
    features = EncoderSettings(precision=precision, compile=features.compile)
    return ImageClassifier(backbone, recipe, features).restore(checkpoint).eval()


def _backbone_of(checkpoint: dict[str, Any], moved_to: str | None) -> Backbone:
    """Returns the backbone as it was before any fine-tuning."""
    recipe = Recipe.from_dict(checkpoint["hyper_parameters"])
    return restore_backbone(recipe.backbone, recipe.preprocessing, moved_to=moved_to, held=checkpoint.get(HELD))


def bundle_of(path: Path, moved_to: str | None) -> dict[str, Any]:
    """Returns what a bundle of a checkpoint, or of an ensemble with the record `path`, holds.

    That is what predictions, tests and reports need of it, and the backbone's weights. Members with the same backbone
    share its tensors, which torch.save writes once.

    Raises:
        HeadstartError: as `load_classifier`.
    """
    weights: dict[str, dict[str, Tensor]] = {}
    members = []
    for checkpoint in chain.from_iterable(map(read_members, checkpoints_of(path))):
        sha256 = checkpoint["hyper_parameters"]["backbone"]["sha256"]
        if sha256 not in weights:
            weights[sha256] = dict(_backbone_of(checkpoint, moved_to).network.state_dict())
        kept = {key: checkpoint[key] for key in KEPT if key in checkpoint}
        members.append(kept | {HELD: weights[sha256]})
    return {MEMBERS: members} if len(members) > 1 else members[0]


def save(content: dict[str, Any], path: Path) -> None:
    """Writes a checkpoint to `path`.

    Raises:
        OSError: the disk is full.
    """
    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # On a full disk, or when it is interrupted, torch.save complains about a position in the file.
            cause = error.__context__
            is_cause = isinstance(cause, OSError | KeyboardInterrupt | SystemExit)
            raise cause if is_cause and cause is not None else error from None


def _is_of(backbone: Backbone, recipe: Recipe) -> bool:
    """Whether a frozen backbone is the one of a recipe that keeps it frozen."""
    is_same = backbone.source.identity() == recipe.backbone.identity()
    return is_same and backbone.preprocessing == recipe.preprocessing and recipe.finetune.first_epoch is None


def _check_version(checkpoint: dict[str, Any], path: Path) -> None:
    """Raises HeadstartError for a checkpoint of a version with other settings than this one."""
    recipe = checkpoint["hyper_parameters"]
    parts: dict[str, tuple[dict[str, Any], Any]] = {
        "": (recipe, Recipe),
        "backbone.": (recipe["backbone"], BackboneSource),
        "finetune.": (recipe["finetune"], FinetuneSettings),
        "preprocessing.": (recipe["preprocessing"], Preprocessing),
    }
    names = {prefix: {field.name for field in fields(kind)} for prefix, (_, kind) in parts.items()}
    # Every checkpoint of headstart, but no other, has most of them.
    if len(names[""] & recipe.keys()) <= len(names[""]) / 2:
        return
    if names[""] - recipe.keys():
        raise HeadstartError(
            f"{path} was written by headstart 0.1.0, whose checkpoints are no longer read: train it again, or use that "
            "version"
        )
    new = [f"{prefix}{key}" for prefix, (part, _) in parts.items() for key in part if key not in names[prefix]]
    if new:
        written = checkpoint.get("versions", {}).get("headstart")
        raise HeadstartError(
            f"{path} was written by a newer headstart{f' ({written})' if written else ''} than this one "
            f"({version('headstart')}), which does not know {new[0]}: install the newer one"
        )


def _warn_about_other_versions(checkpoint: dict[str, Any], recipe: Recipe, backbone: Backbone) -> None:
    """Warns if the packages that the features depend on have other versions, 1.2 of 1.2.3, than in training."""
    trained_with = {"torch": checkpoint.get("versions", {}).get("torch")}
    here: dict[str, str | None] = {"torch": str(torch.__version__)}
    for versions, library in ((trained_with, recipe.backbone.library), (here, backbone.source.library)):
        name, _, number = library.partition(" ")
        versions[name] = number or None
    differing = [
        f"{name} {number} (here {here[name]})"
        for name, number in trained_with.items()
        if number and (own := here.get(name)) and _minor(number) != _minor(own)
    ]
    if differing:
        log.warning(
            "the checkpoint was trained with %s, and predictions may differ a little; task=test measures it",
            " and ".join(differing),
        )


def _minor(number: str) -> list[str]:
    return number.split(".")[:2]


class Ensemble(nn.Module):
    """Classifiers of the same classes, the best first. One alone is an ensemble too.

    Those that share a frozen backbone encode an image once.
    """

    def __init__(self, members: Sequence[ImageClassifier]) -> None:
        super().__init__()
        self._members = nn.ModuleList(members)

    def __iter__(self) -> Iterator[ImageClassifier]:
        return iter(cast(Iterable[ImageClassifier], self._members))

    def __len__(self) -> int:
        return len(self._members)

    @property
    def best(self) -> ImageClassifier:
        """Returns the first member."""
        return next(iter(self))

    @property
    def preprocessings(self) -> tuple[Preprocessing, ...]:
        """Returns every preprocessing that a member needs, that of the best one first."""
        return tuple(dict.fromkeys(member.recipe.preprocessing for member in self))

    def prepare(self, images: int) -> None:
        """Announces how many images will be encoded; what is compiled already is used."""
        for member in self:
            member.encoder.prepare(images, or_kept=True)

    def warm_up(self) -> None:
        """Gets the compiled code that `prepare` has decided on, which `embed` would otherwise do."""
        for member in self:
            member.encoder.warm_up(member.recipe.preprocessing.image_size)

    def embed(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Images (uint8, N×3×H×W) in each of the `preprocessings` → features (N, embedding_dim) for each member."""
        seen = dict(zip(self.preprocessings, images, strict=True))
        features: dict[tuple[Backbone, str], Tensor] = {}
        for member in self:
            if (key := _encodes_as(member)) not in features:
                features[key] = member.embed(seen[member.recipe.preprocessing])
        return [features[_encodes_as(member)] for member in self]

    def predict_proba(self, features: Sequence[Tensor]) -> Tensor:
        """Features for each member → the mean of their calibrated probabilities (N, classes)."""
        return torch.stack([member.predict_proba(of) for member, of in zip(self, features, strict=True)]).mean(0)


def load_ensemble(checkpoints: Iterable[Path], features: EncoderSettings, moved_to: str | None) -> Ensemble:
    """Returns the classifiers in `checkpoints`; a frozen backbone that several were trained on is loaded once.

    Raises:
        HeadstartError: as `load_classifier`.
    """
    members: list[ImageClassifier] = []
    for checkpoint in chain.from_iterable(map(read_members, checkpoints)):
        frozen = [member.backbone for member in members if member.recipe.finetune.first_epoch is None]
        members.append(_classifier_in(checkpoint, features, moved_to, frozen))
    return Ensemble(members)


def checkpoints_of(path: Path) -> list[Path]:
    """Returns the checkpoints of what `checkpoint_file` returned: itself, or those of an ensemble's members.

    Raises:
        HeadstartError: the record of the ensemble is missing or damaged.
    """
    return members_in(path) if is_ensemble(path) else [path]


def members_in(record: Path) -> list[Path]:
    """Returns the checkpoints of the ensemble with the record `record`.

    Raises:
        HeadstartError: it is missing or damaged.
    """
    try:
        return [record.parent / member["checkpoint"] for member in read_json(record)["members"]]
    except (OSError, ValueError, TypeError, KeyError):
        raise HeadstartError(f"{record} does not exist, or is not the record of an ensemble") from None


def _encodes_as(member: ImageClassifier) -> tuple[Backbone, str]:
    """Returns what is the same for members with the same features."""
    return member.backbone, member.encoder.precision
