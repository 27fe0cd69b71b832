import pytest
from hydra.core.singleton import Singleton

from headstart.cli.arguments import register_resolvers, shared_name
from headstart.config.overrides import LONGEST, shortened, sweep_name, swept_keys, swept_values, trial_name

COMMAND = ["-m", "data=folder", "data.root=/a/b c", "model.lr=1e-2,1e-3", "model.dropout=choice(0.2,0.4)"]


def test_swept_keys__keys_with_several_values() -> None:
    assert swept_keys(COMMAND) == (["model.lr", "model.dropout"], ["data", "data.root"])
    assert swept_keys(["model=resnet50,mobilenet_v2", "++trainer.x=range(1,3)"]) == (["model", "trainer.x"], [])
    assert swept_keys(["model.lr=tag(log, interval(0.1,1))", "model.lr=[1", "a=[1,2]"]) == (["model.lr"], ["a"])


def test_swept_values__of_one_trial() -> None:
    overrides = ["data=folder", "model.dropout=0.2", "++trainer.x=1", "model.lr=0.01"]
    assert swept_values(overrides, ["model.lr", "trainer.x", "none"]) == {"model.lr": "0.01", "trainer.x": "1"}


def test_sweep_name__one_per_command() -> None:
    name = sweep_name(COMMAND)
    assert name.startswith("sweep-dropout-lr-")
    assert sweep_name(COMMAND[::-1]) == name, "the order does not matter"
    elsewhere = [*COMMAND, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_trials=50"]
    assert sweep_name(elsewhere) == name
    assert sweep_name([*COMMAND, "seed=1"]) != name
    assert sweep_name(["-m", "sweep=optuna"]).startswith("sweep-optuna-")


def test_trial_name__lists_the_values() -> None:
    assert trial_name({"model.lr": "0.01", "model.dropout": "0.2"}) == "model.dropout=0.2,model.lr=0.01"
    assert trial_name({"model.dropout": "0.2", "model.lr": "0.01"}) == "model.dropout=0.2,model.lr=0.01"
    assert trial_name({}) == "only"


@pytest.mark.parametrize(
    "value", ["/a/b", "a b", "[1,2]", "x" * 200, "0.00123456789", "../../etc", "{a:1}", "é/", "画像" * 60]
)
def test_trial_name__values_that_are_not_valid_in_a_folder_name(value: str) -> None:
    name = trial_name({"key": value})
    assert "/" not in name
    assert len(name.encode()) <= LONGEST + 9
    assert name == trial_name({"key": value})
    assert name != trial_name({"key": f"{value}1"})


def test_trial_name__differs_for_similar_values() -> None:
    assert trial_name({"a": "x/y"}) != trial_name({"a": "x_y"})
    assert trial_name({"lr": "0.0012345678"}) != trial_name({"lr": "0.0012345679"})
    assert trial_name({"a": "1,b=2"}) != trial_name({"a": "1", "b": "3"})


def test_shortened__only_numbers() -> None:
    assert shortened("0.0012520653814999472") == "0.001252"
    assert shortened("2.5943873188938787e-05") == "2.594e-05"
    assert [shortened(text) for text in ("0.01", "1e-3", "resnet18", "1234567", "")] == [
        "0.01",
        "1e-3",
        "resnet18",
        "1234567",
        "",
    ]


def test_shared_name__one_per_run() -> None:
    register_resolvers()
    first = shared_name()
    assert shared_name() == first
    register_resolvers()
    assert shared_name() != first


def test_resolvers__can_be_sent_to_the_processes_of_a_launcher() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    register_resolvers()
    assert cloudpickle.dumps(Singleton.get_state())
