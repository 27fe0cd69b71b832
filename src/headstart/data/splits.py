"""How the images of one class are split: by counts in the order of their names, or by seeded fractions."""

import random

from headstart.seeds import derive_seed

SPLITS = ("train", "valid", "test")


def split_class(names: list[str], train: float, valid: float, *, seed: int, class_name: str) -> dict[str, list[str]]:
    """The names in each split, sorted.

    Counts (int): the first `train` names, the next `valid`, the rest to test. Fractions (float): a random draw that
    depends only on `seed`, `class_name` and the names; every split with a share gets at least one of three names.
    """
    names = sorted(names)
    if isinstance(train, int):
        first, second = train, train + int(valid)
    else:
        random.Random(derive_seed("split", seed, class_name)).shuffle(names)
        first, second = _bounds(len(names), train, valid)
    return {
        "train": sorted(names[:first]),
        "valid": sorted(names[first:second]),
        "test": sorted(names[second:]),
    }


def hold_out(names: list[str], share: float, *, seed: int, class_name: str) -> tuple[list[str], list[str]]:
    """The names that stay in train, and `share` of them, a count (int) or a fraction (float), for validation; sorted.

    A random draw that depends only on `seed`, `class_name` and the names. A fraction leaves at least one name, and
    takes at least one of two.
    """
    names = sorted(names)
    random.Random(derive_seed("valid", seed, class_name)).shuffle(names)
    count = share if isinstance(share, int) else min(max(1, round(len(names) * share)), len(names) - 1)
    return sorted(names[max(0, count) :]), sorted(names[: max(0, count)])


def _bounds(count: int, train: float, valid: float) -> tuple[int, int]:
    has_test = train + valid < 1 - 1e-9
    n_test = min(max(1, round(count * (1 - train - valid))), max(1, count - 2)) if has_test else 0
    n_valid = min(max(1, round(count * valid)), max(1, count - 1 - n_test))
    n_train = max(1, count - n_valid - n_test)
    return n_train, n_train + n_valid
