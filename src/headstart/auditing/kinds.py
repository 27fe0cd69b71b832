"""Every kind of finding: how bad it is, and what to do about it."""

from dataclasses import dataclass

from headstart.data.image_info import MISSING
from headstart.data.labels import CONFLICTING_LABELS, CONFLICTING_ROWS, DUPLICATE, INCOMPLETE
from headstart.errors import UnreadableImage


@dataclass(frozen=True)
class Kind:
    """`severity` is "error" or "warning". Errors make results wrong: task=audit then exits with status 1."""

    severity: str
    advice: str


_UNUSABLE = Kind("error", "Repair or delete them, or set data.on_unreadable=skip.")
UNUSED_BITS, ODD_DEPTH = "unused bits", "odd bit depth"
ABOUT, SMALLER, SAME_NAME = "file about an image", "smaller version of an image", "several files of one name"
ODD_PIXELS, HIDDEN = "unusual pixel values", "hidden by transparency"
GROUPS_ACROSS_SPLITS, NO_GROUP, MISSING_GROUPS = "groups across splits", "image without a group", "missing groups"
SIMILAR_GROUPS, MISSING_VALUE = "similar group names", "possible missing value"
# In the order in which they are shown.
KINDS = {
    **dict.fromkeys(UnreadableImage.FAULTS, _UNUSABLE),
    MISSING: Kind("error", "Correct the paths in the table, or data.root, or set data.on_unreadable=skip."),
    INCOMPLETE: Kind("error", "Complete or delete the row, or set data.on_unreadable=skip."),
    CONFLICTING_ROWS: Kind("error", "Rows of one image contradict each other: keep the right one."),
    "placeholder": Kind("error", "These stand for an image that was not there: delete them."),
    ABOUT: Kind("error", "Masks and the like are used as images of their class: leave them out with data.exclude."),
    CONFLICTING_LABELS: Kind("error", "The same image under different classes: keep the right one."),
    "duplicates across splits": Kind(
        "error", "What is tested has been trained on: delete one of each, or set data.on_leak=drop."
    ),
    "near duplicates across splits": Kind(
        "error", "What is tested looks almost like what was trained on: keep each pair in one split."
    ),
    GROUPS_ACROSS_SPLITS: Kind(
        "error", "What is tested is of a patient, place or video that was trained on: move each group into one split."
    ),
    SIMILAR_GROUPS: Kind("error", "They may be one group, of which a part is tested: write them in one way."),
    "near duplicates with conflicting labels": Kind(
        "error", "Almost the same image under different classes: one label may be wrong."
    ),
    "similar class names": Kind("error", "They may be one class: merge their folders, or rename them."),
    "class missing from a split": Kind("error", "It is not scored there: add images of it."),
    "class missing from train": Kind("error", "It cannot be learnt: add images of it to train."),
    "empty class": Kind("error", "Add images to it, or delete the folder."),
    MISSING_VALUE: Kind("warning", "Does the name stand for images without a label? Then leave them out."),
    "small class": Kind("warning", "It is hard to learn and to score: add images."),
    "class imbalance": Kind("warning", "Consider data.balance=sampler or data.balance=loss."),
    MISSING_GROUPS: Kind(
        "warning", "Are there several images of one patient, place or video? Keep them in one split with data.group."
    ),
    NO_GROUP: Kind("warning", "Each of them is a group of its own."),
    DUPLICATE: Kind("warning", "The image is used once."),
    "duplicates within a split": Kind("warning", "They count more than once."),
    "near duplicates within a split": Kind(
        "warning", "They add little; of images of one scene, keep those in one split."
    ),
    "outlier": Kind("warning", "They are unlike the rest of their class: do they belong there?"),
    UNUSED_BITS: Kind("warning", "They are scaled by as many bits as data.depth says: auto, 8, 10, 12, 14 or 16."),
    "uniform remainder": Kind("warning", "A copy or a download may have broken off: compare them with the originals."),
    ODD_DEPTH: Kind("warning", "All images are read with one data.depth: convert them to the depth of the others."),
    ODD_PIXELS: Kind("warning", "Other programs may read them differently: convert them to 8 bits, or look at some."),
    HIDDEN: Kind(
        "warning", "Transparent areas become white: is it a mask? Then save the images without alpha channel."
    ),
    SMALLER: Kind("warning", "They are the same image again, also across splits: leave them out with data.exclude."),
    SAME_NAME: Kind("warning", "Is one of them a mask, or a copy? Leave it out with data.exclude, such as '*.png'."),
    "blurry": Kind("warning", "Are they sharp enough to tell their classes apart?"),
    "dark": Kind("warning", "Is there enough to see?"),
    "overexposed": Kind("warning", "Is there enough to see?"),
    "extension does not match format": Kind("warning", "They are read by their content; other programs may fail."),
    "unusually large": Kind("warning", "Compared with the other images."),
    "unusually small": Kind("warning", "Compared with the other images: is there enough to see?"),
    "extreme aspect ratio": Kind("warning", "Most of such an image is outside the square that the network sees."),
    "grayscale outlier": Kind("warning", "Most of the other images are in colour."),
    "multiple frames": Kind("warning", "Only the first one is used."),
    "EXIF-rotated": Kind("warning", "They are rotated upright; other programs may not do that."),
    "hidden or system file": Kind("warning", "They are not used."),
    "other file": Kind("warning", "They are not used."),
}
