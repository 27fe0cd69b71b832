"""The rule that splits one class's pictures: counts in the order of the names, or fractions drawn by seed."""

import random

from headstart.seeds import derive_seed

SPLITS = ("train", "valid", "test")


def split_class(names: list[str], train: float, valid: float, *, seed: int, class_name: str) -> dict[str, list[str]]:
    """The names of each split, sorted.

    Counts (int): the first `train` names, the next `valid`, the rest to test. Fractions (float): a draw that depends
    on `seed`, `class_name` and the names alone; every split with a share gets at least one name while there are any.
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


def _bounds(count: int, train: float, valid: float) -> tuple[int, int]:
    has_test = train + valid < 1 - 1e-9
    n_test = max(1, round(count * (1 - train - valid))) if has_test else 0
    n_valid = max(1, round(count * valid))
    n_train = max(1, count - n_valid - n_test)
    return n_train, n_train + n_valid
