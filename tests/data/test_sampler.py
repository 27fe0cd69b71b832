from collections import Counter

from headstart.data.dataset import PADDING, ViewSampler


def keys_of(sampler: ViewSampler, epoch: int) -> list[tuple[int, int]]:
    """(view, index) of each sample of an epoch."""
    sampler.set_epoch(epoch)
    return list(sampler)


def order_of(sampler: ViewSampler, epoch: int = 0) -> list[int]:
    return [index for _, index in keys_of(sampler, epoch)]


def test_shuffled__each_sample_once_and_the_view_is_the_epoch() -> None:
    sampler = ViewSampler(10, seed=0)
    first, second = keys_of(sampler, 0), keys_of(sampler, 1)
    assert {view for view, _ in first} == {0}
    assert {view for view, _ in second} == {1}
    orders = [[index for _, index in keys] for keys in (first, second)]
    assert orders[0] != orders[1]
    assert all(sorted(order) == list(range(10)) for order in orders)


def test_shuffled__a_pure_function_of_seed_and_epoch() -> None:
    expected = keys_of(ViewSampler(10, seed=3), 5)
    assert keys_of(ViewSampler(10, seed=3), 5) == expected
    assert keys_of(ViewSampler(10, seed=4), 5) != expected


def test_unshuffled__in_order() -> None:
    assert keys_of(ViewSampler(3, seed=None), 7) == [(7, 0), (7, 1), (7, 2)]


def test_views__are_those_of_the_epochs() -> None:
    sampler = ViewSampler(1, seed=None, view_of=lambda epoch: epoch % 3)
    views = [view for epoch in range(5) for view, _ in keys_of(sampler, epoch)]
    assert views == [0, 1, 2, 0, 1]


def test_ranks__share_the_samples_equally() -> None:
    parts = [order_of(ViewSampler(10, seed=0, rank=rank, world_size=4), 2) for rank in range(4)]
    assert {len(part) for part in parts} == {3}
    assert sorted(index for part in parts for index in part) == [PADDING, PADDING, *range(10)]
    # Batches of 1 in four processes are those of 4 in one.
    assert [part[0] for part in parts] == order_of(ViewSampler(10, seed=0), 2)[:4]


def test_balanced__equally_many_of_each_class_as_a_function_of_seed_and_epoch() -> None:
    labels = [0] * 50 + [1] * 7 + [2] * 13
    sampler = ViewSampler(70, seed=3, balanced=labels)
    order = order_of(sampler, 4)
    counts = Counter(labels[index] for index in order)
    assert len(order) == 70
    assert max(counts.values()) - min(counts.values()) <= 1
    # Samples of a small class repeat equally often; none of a large class repeats.
    times = Counter(order)
    assert {times[index] for index in range(50)} <= {0, 1}
    assert {times[index] for index in range(50, 57)} <= {3, 4}
    assert order_of(ViewSampler(70, seed=3, balanced=labels), 4) == order
    assert order_of(sampler, 5) != order


def test_balanced__every_sample_of_a_large_class_is_drawn_in_time() -> None:
    labels = [0] * 50 + [1] * 7
    sampler = ViewSampler(57, seed=0, balanced=labels)
    assert {index for epoch in range(20) for index in order_of(sampler, epoch)} == set(range(57))


def test_balanced__ranks_share_one_draw() -> None:
    labels = [0] * 20 + [1] * 4
    whole = order_of(ViewSampler(24, seed=1, balanced=labels))
    parts = [order_of(ViewSampler(24, seed=1, balanced=labels, rank=rank, world_size=2)) for rank in (0, 1)]
    assert parts == [whole[0::2], whole[1::2]]
