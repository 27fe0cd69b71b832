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
