"""The essence of a report, in six sentences."""

from headstart.config.model import CLOSED_FORM, TRAINED
from headstart.evaluation.answers import FromFeatures
from headstart.evaluation.baselines import HEADS
from headstart.evaluation.result import Result
from headstart.evaluation.statistics import SIGNIFICANT
from headstart.text import counted

# Accuracies this close are called the same.
SAME = 0.005


def summarize(result: Result, found: FromFeatures | None) -> list[str]:
    """Plain text; without features, fewer sentences."""
    if found is None:
        return [accuracy(result), _mistakes(result), probabilities(result)]
    compared = [against_baselines(result, found), best_on_valid(found)]
    return [accuracy(result), *compared, _mistakes(result), _more_images(found), _labels(found)]


def against_baselines(result: Result, found: FromFeatures) -> str:
    """Whether the head is better than the best baseline, and whether that is more than chance."""
    best = found.best_baseline()
    difference = result.accuracy - best.accuracy
    sure = best.p_value < SIGNIFICANT
    others = "best of the other simple classifiers" if found.head.kind in CLOSED_FORM else "best simple classifier"
    which = f"the {others}, {best.name} on the same features"
    if abs(difference) < SAME and not sure:
        return f"It is as good as {which} ({best.accuracy:.3f})."
    chance = "more than chance" if sure else "which may be chance"
    detail = f"{best.accuracy:.3f}; {chance}, p = {best.p_value:.2g}"
    if difference > 0:
        return f"It is better than {which} ({detail})."
    return f"It does not beat {which} ({detail})."


def best_on_valid(found: FromFeatures) -> str:
    """Which of the head and the baselines is best on the valid split, and how to get it."""
    better, own = found.better_baseline(), f"{found.head.valid_accuracy:.3f}"
    if better is None:
        best = found.best_baseline()
        return f"Best on the valid split: this classifier ({own}; next, {best.name}, {best.valid_accuracy:.3f})."
    head = HEADS.get(better.name)
    how = "one step by step" if head in TRAINED else "it"
    advice = f"; model.head={head} trains {how}" if head not in (None, found.head.kind) else ""
    return f"Best on the valid split: {better.name} ({better.valid_accuracy:.3f}; this classifier {own}){advice}."


def accuracy(result: Result) -> str:
    """How many images are classified correctly."""
    correct, (low, high) = int(result.correct.sum()), result.interval
    count = len(result.correct)
    return (
        f"The classifier is right about {correct:,} of {counted(count, f'{result.split} image')}: accuracy "
        f"{result.accuracy:.3f}, with 95 % confidence between {low:.2f} and {high:.2f}."
    )


def _mistakes(result: Result) -> str:
    if not result.confusions:
        return f"It makes no mistake on the {result.split} images."
    first = result.confusions[0]
    return f"Its most frequent mistake is to take {first.true} for {first.predicted} ({counted(first.count, 'image')})."


def probabilities(result: Result) -> str:
    """How far the probabilities can be believed, and what calibration changed."""
    before, after = result.uncalibrated, result.calibrated
    if result.predictions.temperature == 1:
        return f"Its probabilities are off by {100 * after.ece:.1f} percentage points on average."
    change = "lowered" if after.log_loss < before.log_loss else "did not lower"
    return (
        f"Its probabilities are off by {100 * after.ece:.1f} percentage points on average; calibration {change} the "
        f"log-loss ({before.log_loss:.3f} to {after.log_loss:.3f})."
    )


def _more_images(found: FromFeatures) -> str:
    curve = found.curve
    if curve is None or curve.forecast is None:
        return "There are too few training images per class to tell whether more of them would help."
    value, low, high = curve.forecast
    now = float(curve.accuracies[-1].mean())
    advice = "would help" if low > now + SAME else "might help" if value > now + SAME else "would hardly help"
    return (
        f"Twice the training images {advice}: ridge regression reaches {now:.3f} with {curve.counts[-1]} images per "
        f"class, and would reach about {value:.3f} ({low:.3f} to {high:.3f}) with {2 * curve.counts[-1]}."
    )


def familiarity(result: Result) -> str:
    """How many of the images are unlike anything trained on."""
    count, total = len(result.unfamiliar), len(result.correct)
    return (
        f"{counted(count, 'image')} of {total:,} ({count / total:.1%}) "
        f"{'is' if count == 1 else 'are'} unlike anything trained on, by a threshold that 5 % of the valid split are "
        "below. predict.py uses the same threshold."
    )


def _labels(found: FromFeatures) -> str:
    if not found.issues.count:
        return "Every label agrees with what the other images suggest."
    return (
        f"{counted(found.issues.count, 'label')} of {len(found.labels):,} "
        f"{'disagrees' if found.issues.count == 1 else 'disagree'} with what the other images suggest: look at them "
        "first."
    )
