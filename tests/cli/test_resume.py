"""The settings of the run that a checkpoint belongs to."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from headstart.cli.overrides import key_of, literal, value_of
from headstart.cli.resume import overrides_to_repeat, with_checkpoint_file
from headstart.config.literal import literals
from headstart.errors import HeadstartError
from headstart.run_folder import RunFolder, SweepFolder, checkpoint_file


def run_in(folder: Path) -> RunFolder:
    """A run folder with empty checkpoints."""
    run = RunFolder(folder)
    for path in (run.best, run.last):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return run


def test_checkpoint_file__of_a_run_its_checkpoints_and_a_sweep(tmp_path: Path) -> None:
    run = run_in(tmp_path / "sweep" / "trial")
    SweepFolder(tmp_path / "sweep").best.symlink_to("trial")
    assert checkpoint_file(run.best, "last") == run.best
    assert checkpoint_file(run.path, "best") == run.best
    assert checkpoint_file(run.path, "last") == run.last
    assert checkpoint_file(run.best.parent, "best") == run.best
    assert checkpoint_file(tmp_path / "sweep", "best").resolve() == run.best


def test_checkpoint_file__of_another_folder_names_the_newest_run(tmp_path: Path) -> None:
    run = run_in(tmp_path / "data-arch" / "run")
    with pytest.raises(HeadstartError, match=rf"not the folder of a run, .*; the newest run in it is {run.path}"):
        checkpoint_file(tmp_path, "best")
    run.last.unlink()
    with pytest.raises(HeadstartError, match=r"not the folder of a run, which has checkpoints/last.ckpt$"):
        checkpoint_file(tmp_path, "last")


def test_arguments__a_run_folder_becomes_its_checkpoint(tmp_path: Path) -> None:
    run = run_in(tmp_path / "a, b")
    (argument,) = with_checkpoint_file([f"ckpt_path={run.path}"], "last")
    assert argument == f"ckpt_path={run.last}"
    (argument,) = with_checkpoint_file([f"ckpt_path={literal(str(run.path))}"], "best")
    assert value_of(argument) == str(run.best)
    assert with_checkpoint_file([f"ckpt_path={run.best}", "seed=1"], "last") == [f"ckpt_path={run.best}", "seed=1"]


def test_overrides__as_they_were_written(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    run.overrides.parent.mkdir()
    OmegaConf.save(["data.root='a\\${x}'", "ckpt_path=x", "task=test", "model.lr=${oc.env:LR,1}"], run.overrides)
    assert overrides_to_repeat([f"ckpt_path={run.last}"]) == ["data.root='a\\${x}'", "model.lr=${oc.env:LR,1}"]
    assert overrides_to_repeat(["seed=1", "ckpt_path=null"]) == []


def test_overrides__not_the_weights_for_a_test(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    run.overrides.parent.mkdir()
    OmegaConf.save(["model.weights=here.pth", "seed=1"], run.overrides)
    assert overrides_to_repeat(["task=test", f"ckpt_path={run.best}"]) == ["seed=1"]


def test_overrides__from_the_configuration_if_hydras_record_is_gone(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    values = {
        "task": "train",
        "run_dir": str(tmp_path),
        "data": {"maker": None, "root": "it's ${x}", "split": {"train": 0.7}},
        "trainer": {"precision": "32"},
        "callbacks": {"early_stopping": None},
        "logger": {"csv": {"save_dir": str(tmp_path)}},
        "sweep": {"over": []},
    }
    OmegaConf.save(OmegaConf.create(literals(values)), run.config)
    found = overrides_to_repeat([f"ckpt_path={run.last}"])
    assert found[0] == "data=folder"
    given = {key_of(override): value_of(override) for override in found}
    assert given["data.root"] == "it's ${x}"
    assert given["data.split.train"] == "0.7"
    assert "trainer.precision='32'" in found
    assert "callbacks.early_stopping=null" in found
    assert "logger.csv.save_dir=${run_dir}" in found
    assert not {"task", "run_dir", "sweep.over"} & given.keys()


def test_overrides__gone_for_good(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    with pytest.raises(HeadstartError, match=r"has neither .hydra/overrides.yaml nor config.yaml: give its data"):
        overrides_to_repeat([f"ckpt_path={run.last}", "model.lr=1"])
    assert overrides_to_repeat([f"ckpt_path={run.last}", "data=folder", "data.root=x"]) == []


@pytest.mark.parametrize("content", ["data: [", "3", "data: 3"])
def test_overrides__damaged(tmp_path: Path, content: str) -> None:
    run = run_in(tmp_path)
    run.config.write_text(content)
    with pytest.raises(HeadstartError, match="cannot be read: one of its files is damaged"):
        overrides_to_repeat([f"ckpt_path={run.last}"])


def test_checkpoint__missing() -> None:
    with pytest.raises(HeadstartError, match=r"ckpt_path=no/such.ckpt does not exist"):
        overrides_to_repeat(["ckpt_path=no/such.ckpt"])
