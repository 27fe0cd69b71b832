import pytest

from headstart.data.splits import split_class, split_off_valid

NAMES = [f"{number:03}.jpg" for number in range(100)]


def test_counts__first_by_name() -> None:
    parts = split_class(NAMES[::-1], 60, 10, seed=0, class_name="a")
    assert parts == {"train": NAMES[:60], "valid": NAMES[60:70], "test": NAMES[70:]}


def test_fractions__are_drawn_by_seed_and_class() -> None:
    parts = split_class(NAMES, 0.7, 0.2, seed=0, class_name="a")
    assert {name: len(part) for name, part in parts.items()} == {"train": 70, "valid": 20, "test": 10}
    assert sorted(name for part in parts.values() for name in part) == NAMES
    assert parts == split_class(NAMES[::-1], 0.7, 0.2, seed=0, class_name="a")
    assert parts != split_class(NAMES, 0.7, 0.2, seed=1, class_name="a")
    assert parts != split_class(NAMES, 0.7, 0.2, seed=0, class_name="b")
    assert parts["train"] != NAMES[:70]


def test_fractions__nothing_left_for_test() -> None:
    parts = split_class(NAMES, 0.7, 0.3, seed=0, class_name="a")
    assert [len(part) for part in parts.values()] == [70, 30, 0]


@pytest.mark.parametrize("count", range(3, 12))
@pytest.mark.parametrize(("train", "valid"), [(0.9, 0.05), (0.7, 0.15), (0.05, 0.9), (0.01, 0.01), (0.05, 0.05)])
def test_fractions__no_empty_split_of_a_small_class(count: int, train: float, valid: float) -> None:
    parts = split_class(NAMES[:count], train, valid, seed=0, class_name="a")
    assert all(parts.values())
    assert sum(map(len, parts.values())) == count


def test_fractions__of_the_default() -> None:
    sizes = {
        n: [len(part) for part in split_class(NAMES[:n], 0.7, 0.15, seed=0, class_name="a").values()] for n in (42, 3)
    }
    assert sizes == {42: [30, 6, 6], 3: [1, 1, 1]}


@pytest.mark.parametrize("count", [1, 2])
def test_fractions__of_a_class_too_small_for_them(count: int) -> None:
    parts = split_class(NAMES[:count], 0.7, 0.15, seed=0, class_name="a")
    assert [len(part) for part in parts.values()] == [1, count - 1, 0]


def test_split_off_valid__a_seeded_share() -> None:
    train, valid = split_off_valid(NAMES[::-1], 0.15, seed=0, class_name="a")
    assert (len(train), len(valid)) == (85, 15)
    assert sorted(train + valid) == NAMES
    assert (train, valid) == (sorted(train), sorted(valid))
    assert valid == split_off_valid(NAMES, 0.15, seed=0, class_name="a")[1]
    assert valid != split_off_valid(NAMES, 0.15, seed=1, class_name="a")[1]
    assert valid != split_off_valid(NAMES, 0.15, seed=0, class_name="b")[1]


@pytest.mark.parametrize(
    ("count", "share", "expected"),
    [
        (2, 0.01, (1, 1)),
        (2, 0.99, (1, 1)),
        (1, 0.5, (1, 0)),
        (10, 3, (7, 3)),
        (3, 3, (0, 3)),
        (2, 3, (0, 2)),
        (0, 0.5, (0, 0)),
    ],
)
def test_split_off_valid__of_small_classes(count: int, share: float, expected: tuple[int, int]) -> None:
    train, valid = split_off_valid(NAMES[:count], share, seed=0, class_name="a")
    assert (len(train), len(valid)) == expected
