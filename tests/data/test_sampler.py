from collections import Counter

from headstart.data.sampler import ViewSampler


def test_shuffled__each_once_and_the_view_is_the_epoch() -> None:
    sampler = ViewSampler(10, seed=0)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert {view for view, _ in first} == {0}
    assert {view for view, _ in second} == {1}
    orders = [[index for _, index in keys] for keys in (first, second)]
    assert orders[0] != orders[1]
    assert all(sorted(order) == list(range(10)) for order in orders)


def test_shuffled__a_pure_function_of_seed_and_epoch() -> None:
    assert list(ViewSampler(10, seed=3, epoch=5)) == list(ViewSampler(10, seed=3, epoch=5))
    assert list(ViewSampler(10, seed=3, epoch=5)) != list(ViewSampler(10, seed=4, epoch=5))


def test_unshuffled__in_order() -> None:
    assert list(ViewSampler(3, seed=None, epoch=7)) == [(7, 0), (7, 1), (7, 2)]


def test_views__come_again() -> None:
    sampler = ViewSampler(1, seed=None, views=3)
    views = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        views += [view for view, _ in sampler]
    assert views == [0, 1, 2, 0, 1]


def test_ranks__share_the_samples_equally() -> None:
    parts = [list(ViewSampler(10, seed=0, epoch=2, rank=rank, world_size=4)) for rank in range(4)]
    assert {len(part) for part in parts} == {3}
    assert {index for part in parts for _, index in part} == set(range(10))


def test_balanced__equally_many_of_each_class_as_a_function_of_seed_and_epoch() -> None:
    labels = [0] * 50 + [1] * 7 + [2] * 13
    sampler = ViewSampler(70, seed=3, balanced=labels)
    sampler.set_epoch(4)
    order = [index for _, index in sampler]
    counts = Counter(labels[index] for index in order)
    assert len(order) == 70
    assert max(counts.values()) - min(counts.values()) <= 1
    # A small class comes round evenly, and of a large one no picture comes twice.
    times = Counter(order)
    assert {times[index] for index in range(50)} <= {0, 1}
    assert {times[index] for index in range(50, 57)} <= {3, 4}
    again = ViewSampler(70, seed=3, balanced=labels, epoch=4)
    assert [index for _, index in again] == order
    sampler.set_epoch(5)
    assert [index for _, index in sampler] != order


def test_balanced__every_picture_of_a_large_class_has_its_turn() -> None:
    labels = [0] * 50 + [1] * 7
    sampler = ViewSampler(57, seed=0, balanced=labels)
    seen = set()
    for epoch in range(20):
        sampler.set_epoch(epoch)
        seen |= {index for _, index in sampler}
    assert seen == set(range(57))


def test_balanced__shards_are_of_the_same_draw() -> None:
    labels = [0] * 20 + [1] * 4
    whole = [index for _, index in ViewSampler(24, seed=1, balanced=labels)]
    parts = [[i for _, i in ViewSampler(24, seed=1, balanced=labels, rank=rank, world_size=2)] for rank in (0, 1)]
    assert parts == [whole[0::2], whole[1::2]]
