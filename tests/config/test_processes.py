from typing import Any

import pytest
from conftest import SMALL, settings_of

from headstart.config.lightning import with_processes
from headstart.errors import HeadstartError
from headstart.machine import Place


def launched(monkeypatch: pytest.MonkeyPatch, processes: int, per_node: int) -> None:
    place = Place(0, processes, 0, per_node, "torchrun")
    monkeypatch.setattr("headstart.config.lightning.place_in_job", lambda: place)


def test_ddp__takes_what_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 16, 8)
    trainer = settings_of("data.root=x", *SMALL, "trainer=ddp").trainer
    assert (trainer["devices"], trainer["num_nodes"]) == (8, 2)


@pytest.mark.parametrize(
    "trainer", [{"devices": 1}, {"devices": 4, "num_nodes": 2}, {"devices": [0], "num_nodes": 2}, {"devices": 8}]
)
def test_other_numbers_than_were_started(trainer: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 16, 8)
    with pytest.raises(HeadstartError, match="torchrun started 8 processes on each of 2 machines"):
        with_processes(trainer, "train")


def test_several_nodes__without_a_launcher() -> None:
    with pytest.raises(HeadstartError, match=r"trainer.num_nodes=2 needs a launcher"):
        with_processes({"num_nodes": 2}, "train")


@pytest.mark.parametrize(("devices", "one"), [("auto", 1), (8, 1), ([3, 4], [3])])
def test_other_tasks__use_one_process(devices: Any, one: Any) -> None:
    trainer = {"devices": devices, "num_nodes": 4, "strategy": "ddp"}
    assert with_processes(trainer, "test") == {"devices": one, "num_nodes": 1, "strategy": "auto"}


def test_other_tasks__several_processes_were_started(monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch, 2, 2)
    with pytest.raises(HeadstartError, match="task=audit runs in one process: start it without torchrun"):
        with_processes({}, "audit")
