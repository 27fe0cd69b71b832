from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from headstart.training.fit import cores_for_head


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("width", "finetuned", "closed_form", "threads"),
    [(2048, None, False, 1), (200_000, None, False, 3), (2048, 0, False, 3), (2048, None, True, 3)],
    ids=["short steps", "long steps", "fine-tuned", "closed-form"],
)
def test_cores__one_for_short_steps_of_a_head(
    width: int, finetuned: int | None, closed_form: bool, threads: int
) -> None:
    recipe = SimpleNamespace(finetune=SimpleNamespace(first_epoch=finetuned), is_closed_form=closed_form)
    classifier: Any = SimpleNamespace(head=nn.Linear(width, 16), recipe=recipe)
    with cores_for_head(classifier, batch_size=32):
        assert torch.get_num_threads() == threads
    assert torch.get_num_threads() == 3
