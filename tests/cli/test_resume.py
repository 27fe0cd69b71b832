"""The settings of the run that a checkpoint belongs to."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT, settings_of
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from headstart.cli.arguments import register_resolvers
from headstart.cli.main import TRAIN, arguments_for_hydra
from headstart.cli.resume import with_checkpoint_file, with_settings_of_run
from headstart.config import GROUPS, options_of
from headstart.config.overrides import key_of, literal, value_of, written_as
from headstart.config.train import TrainSettings, check_train, record_of
from headstart.errors import HeadstartError
from headstart.run_folder import RunFolder, SweepFolder, checkpoint_file

# Texts that YAML, Hydra or OmegaConf could read as something else.
HARD = (
    "a b",
    " a",
    "it's",
    'x"y',
    "a,b",
    "a=b",
    "[a]",
    "{b}",
    "#d",
    "$e",
    "a${b}",
    "\\",
    "007",
    "1e3",
    "true",
    "nan",
    "!x",
    "&",
    "a\nb",
    "\x85",
)


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


def logs_in(folder: Path, *names: str) -> None:
    """logs/NAME, each a run that is newer than the one before; those of trials are in a sweep."""
    for age, name in enumerate(names):
        run = run_in(folder / "logs" / name)
        for path in (run.best, run.last):
            os.utime(path, (age, age))


RUNS = ("zoo-resnet50/2026-11-01_10-00-00-aaa111", "zoo-resnet50/2026-11-02_10-00-00-bbb222", "own/mine", "alone")


@pytest.mark.parametrize(
    ("text", "run"),
    [
        ("last", 3),
        ("bbb222", 1),
        ("2026-11-01_10-00-00-aaa111", 0),
        ("zoo-resnet50/2026-11-01_10-00-00-aaa111/", 0),
        ("own", 2),
        ("mine", 2),
        ("alone", 3),
    ],
)
def test_checkpoint_file__of_a_run_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, run: int
) -> None:
    logs_in(tmp_path, *RUNS)
    monkeypatch.chdir(tmp_path)
    for name in ("best", "last"):
        expected = f"logs/{RUNS[run]}/checkpoints/{name}.ckpt"
        assert str(checkpoint_file(Path(text), name)) == expected
        assert with_checkpoint_file([f"ckpt_path={text}"], name) == [f"ckpt_path={expected}"]


def test_checkpoint_file__what_names_no_run_or_several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HeadstartError, match=r"^there is no run in logs/ whose checkpoints/last.ckpt"):
        checkpoint_file(Path("last"), "last")
    with pytest.raises(HeadstartError, match=r"ckpt_path=x does not exist, and no run in logs/ has that name$"):
        checkpoint_file(Path("x"), "best")
    logs_in(tmp_path, *RUNS)
    with pytest.raises(
        HeadstartError, match=rf"zoo-resnet50 is the name of 2 runs: .* logs/{RUNS[1]}, logs/{RUNS[0]}$"
    ):
        checkpoint_file(Path("zoo-resnet50"), "best")
    for text in ("best", "logs", "bbb22", "."):
        with pytest.raises(HeadstartError):
            checkpoint_file(Path(text), "best")
    with pytest.raises(
        HeadstartError, match=r"ckpt_path=best does .* \(ckpt_path=last, the newest run \(logs/alone\)\)"
    ):
        checkpoint_file(Path("best"), "best")


def test_checkpoint_file__a_path_comes_first_and_the_best_trial_is_that_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logs_in(tmp_path, "run/old", "sweep-lr/a", "sweep-lr/b")
    sweep = SweepFolder(tmp_path / "logs" / "sweep-lr")
    sweep.record.touch()
    sweep.best.symlink_to("a")
    assert str(checkpoint_file(Path("last"), "best")) == "logs/sweep-lr/best/checkpoints/best.ckpt"
    run = run_in(tmp_path / "last")
    assert checkpoint_file(Path("last"), "best") == run.best.relative_to(tmp_path)


def test_arguments__a_run_folder_becomes_its_checkpoint(tmp_path: Path) -> None:
    run = run_in(tmp_path / "a, b")
    (argument,) = with_checkpoint_file([f"ckpt_path={run.path}"], "last")
    assert argument == f"ckpt_path={run.last}"
    (argument,) = with_checkpoint_file([f"ckpt_path={literal(str(run.path))}"], "best")
    assert value_of(argument) == str(run.best)
    assert with_checkpoint_file([f"ckpt_path={run.best}", "seed=1"], "last") == [f"ckpt_path={run.best}", "seed=1"]


def resumed(run: RunFolder, *arguments: str) -> TrainSettings:
    """The settings of `python train.py ckpt_path=RUN ARGUMENTS`."""
    register_resolvers()
    given = [f"ckpt_path={literal(str(run.last))}", *arguments]
    words = [word for word in arguments_for_hydra(given, TRAIN) if not word.startswith("-")]
    folders = [f"file://{following}" for flag, following in pairwise(given) if flag == "--config-dir"]
    searched = [f"hydra.searchpath={written_as(folders)}"] if folders else []
    with initialize_config_dir(str(ROOT / "conf")):
        return check_train(
            compose("train", [*(w for w in words if w not in arguments[1:2] or not folders), *searched, "run_dir=new"])
        )


def recorded(folder: Path, settings: TrainSettings) -> RunFolder:
    """The folder of a run with these settings, which has nothing but config.yaml and checkpoints."""
    run = run_in(folder)
    run.config.write_text(record_of(settings), encoding="utf-8")
    return run


@pytest.mark.slow
@pytest.mark.parametrize(("root", "found"), [("/images", "/images"), ("/r/images", "r/images")])
def test_read_record__data_moves_with_the_run_only_from_a_common_folder(tmp_path: Path, root: str, found: str) -> None:
    """What happens to be as many folders above the run as the data was is something else."""
    for folder in ("images", "r/images"):
        (tmp_path / folder).mkdir(parents=True)
    settings = replace(settings_of("data=folder", f"data.root={root}"), run_dir="/r/run")
    assert resumed(recorded(tmp_path / "r/run", settings)).data.root == str(tmp_path / found)


def in_folder(settings: TrainSettings, folder: str) -> TrainSettings:
    """`settings` of the run in another folder, without its checkpoint."""
    moved = {key: value | {"save_dir": folder} for key, value in settings.logger.items() if "save_dir" in (value or {})}
    return replace(settings, run_dir=folder, ckpt_path=None, logger=settings.logger | moved)


def assert_read_back(folder: Path, *overrides: str) -> None:
    """Settings are the same when they are read back, except that the run is another one."""
    settings = settings_of(*overrides)
    found = resumed(recorded(folder, settings))
    assert found.run_dir == "new"
    assert in_folder(found, "new") == in_folder(settings, "new")
    assert found.logger == in_folder(settings, "new").logger


def options() -> Iterator[tuple[str, ...]]:
    """Each option of each group of conf/, as many together as there are groups; experiments choose those of others."""
    groups = {group: options_of(group) for group in GROUPS if group not in ("sweep", "experiment")}
    for number in range(max(map(len, groups.values()))):
        yield tuple(f"{group}={names[number % len(names)]}" for group, names in groups.items())
    for name in options_of("experiment"):
        yield (f"experiment={name}",)


@pytest.mark.slow
def test_record__every_option_of_conf_is_read_back(tmp_path: Path) -> None:
    for chosen in options():
        table = ["data.csv=/x/labels.csv"] if "data=csv" in chosen else []
        assert_read_back(tmp_path, *chosen, "data.root=/x", *table)


# A value that each key takes besides its usual one, as many together as agree; of the others, conf/ has several.
ODD = [
    "data.split.train=60 data.split.valid=10 data.mean=[0.1,0.2,0.3] seed=12345678901",
    "data.folds=5 data.fold=2 trainer.precision='32' trainer.devices=[0] trainer.max_time='00:12:00:00'",
    "data.resize_mode=pad data.image_size=64 data.max_pixels=1000 data.near_duplicates=true data.depth=12",
    "data.csv=/x/l.csv data.columns.path='a b' data.columns.split=null data.group='1e3'",
    "data.group='(\\\\d+),\\[x\\]'",
    "model.weights=null model.label_smoothing=1e-7 model.lr=1e-05 model.weight_decay=0",
    "model.weights=/w/a=b.pth model.head=ridge",
    "model.weights=bundled",
    "model.arch=timm/vit_small_patch14_dinov2 model.head=linear",
    "features.views=4 features.max_gb=null features.dir='/f/$HOME' features.compile=false features.precision='32'",
    "trainer.precision=bf16-mixed trainer.max_time={hours:1} trainer.gradient_clip_val=0.5 trainer.profiler=null",
    "trainer.max_epochs=-1 callbacks.early_stopping=null callbacks.checkpoint=null",
    "callbacks.early_stopping.monitor=train/acc "
    "+callbacks.sum._target_=pytorch_lightning.callbacks.ModelSummary +callbacks.sum.max_depth=-1",
    "+callbacks.s._target_=pytorch_lightning.callbacks.GradientAccumulationScheduler +callbacks.s.scheduling={4:2} "
    "+logger.csv._target_=pytorch_lightning.loggers.CSVLogger +logger.csv.save_dir=${run_dir} +logger.csv.name='on'",
    *("finetune.epochs=[1,2] finetune.lr_factors=[1.0,0.5] finetune.rest=3", "finetune=full finetune.mixup=0.2"),
    "augment.transforms=[] evaluation.views=4 report=none export.format=all export.path='/e/2024-01-01'",
    "augment.transforms=[{_target_:torchvision.transforms.v2.RandomApply,p:0.5,transforms:[{_target_:torchvision.transforms.v2.ColorJitter,brightness:[0.5,1]}]}]",
]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", ODD)
def test_record__odd_values_are_read_back(tmp_path: Path, overrides: str) -> None:
    assert_read_back(tmp_path, "data=csv", "data.root=/x", "data.csv=/x", *re.split(r" (?=[+\w.]+=)", overrides))


TEXTS = [*HARD, "null", "~", "on", "1_000", "0x1F", "12:30:45", "1e-3", ".inf", "a: b", "- a", "é"]


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, len(TEXTS), 3))
def test_record__any_text_is_read_back(tmp_path: Path, first: int) -> None:
    texts = TEXTS[first : first + 3]
    paths = zip(("data.root", "data.csv", "features.dir"), [f"/{text}" for text in texts], strict=False)
    names = zip(("data.group", "data.columns.label", "export.path"), texts, strict=False)
    written = {"data.root": "/x", "data.csv": "/x"} | dict(paths) | dict(names)
    assert_read_back(tmp_path, "data=csv", *(f"{key}={literal(value)}" for key, value in written.items()))


@pytest.mark.slow
def test_record__classes_of_a_dataset_and_their_names(tmp_path: Path) -> None:
    assert_read_back(tmp_path, "data=caltech256", "data.root=/x", "data.categories=['a,b',' c','1','null','it\\'s']")
    assert_read_back(tmp_path, "data=shapes", "data.root=/x", "data.classes=pretraining", "data.per_class=3")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "anew", "expected"),
    [
        (["model.lr=0.5"], ["trainer.max_epochs=40"], {"model.lr": 0.5, "trainer.max_epochs": 40}),
        (["trainer.max_epochs=40"], ["trainer=cpu"], {"trainer.max_epochs": 40, "trainer.accelerator": "cpu"}),
        (["trainer=cpu"], ["trainer=default"], {"trainer.accelerator": "auto"}),
        (["callbacks=ema"], ["callbacks=default"], {"callbacks.ema": None}),
        (["callbacks.early_stopping.patience=9"], ["callbacks=ema"], {"callbacks.early_stopping.patience": 9}),
        (["logger=none"], ["logger=tensorboard"], {"logger.tensorboard.name": ""}),
        ([], ["logger=none"], {"logger.tensorboard": None}),
        (["logger=none"], ["logger=none"], {"logger.tensorboard": None}),
        ([], ["~callbacks.early_stopping"], {"callbacks.early_stopping": None}),
        (["data.batch_size=3"], ["data=folder", "data.root=/y"], {"data.batch_size": 3, "data.root": "/y"}),
        (["data.batch_size=3"], ["data=csv", "data.csv=/y"], {"data.batch_size": 3, "data.group": "auto"}),
        (["data.split.train=6", "data.split.valid=3"], ["data=shapes"], {"data.split.train": 40}),
        (["model.dropout=0.1"], ["experiment=long"], {"model.lr": 3e-4, "model.dropout": 0.1}),
        (["finetune=full"], ["finetune=full"], {"features.cache": False, "finetune.rest": 0}),
        (["augment=none"], ["augment=recipe"], {"augment.transforms.1.degrees": 15}),
        ([], ["callbacks.early_stopping.monitor=train/acc"], {"callbacks.early_stopping.mode": "max"}),
    ],
)  # fmt: skip
def test_record__what_is_given_anew_wins(
    tmp_path: Path, before: list[str], anew: list[str], expected: dict[str, object]
) -> None:
    register_resolvers()
    overrides = ["data=folder", "data.root=/x", *before]
    run = recorded(tmp_path, settings_of(*overrides))
    chosen = dict(word.split("=") for word in overrides if key_of(word) in GROUPS)
    run.record.write_text(json.dumps({"choices": {"data": "folder", "experiment": None, "sweep": "default"} | chosen}))
    found = OmegaConf.create(asdict(resumed(run, *anew)))
    assert {key: OmegaConf.select(found, key.replace(".1.", "[1].")) for key in expected} == expected


@pytest.mark.slow
def test_record__options_of_another_folder_are_not_needed_again(tmp_path: Path) -> None:
    own = tmp_path / "own conf" / "model"
    own.mkdir(parents=True)
    (own / "mine.yaml").write_text("defaults: [resnet50]\nhidden_dim: 99\n")
    run = recorded(tmp_path / "run", settings_of("data=folder", "data.root=/x", "model.hidden_dim=99"))
    run.record.write_text(json.dumps({"choices": {"data": "folder", "model": "mine"}}))
    assert resumed(run).model.hidden_dim == 99
    assert resumed(run, "--config-dir", str(own.parent), "model=mine").model.hidden_dim == 99


@pytest.mark.slow
def test_record__relative_paths_are_those_of_the_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("project/images", "elsewhere/images"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    Path("w.pth").touch()
    given = ("data=csv", "data.root=images", "data.csv=l.csv", "model.weights=w.pth", "features.dir=f")
    run = recorded(tmp_path / "project" / "logs" / "a" / "b", settings_of(*given))
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = resumed(run)
    paths = [found.data.root, found.data.csv, found.model.weights, found.features.dir]
    assert paths == [str(tmp_path / "project" / name) for name in ("images", "l.csv", "w.pth", "f")]
    assert resumed(run, "data.root=images").data.root == "images"


@pytest.mark.slow
def test_record__a_project_that_was_moved_with_its_runs(tmp_path: Path, messages: list[str]) -> None:
    (tmp_path / "project" / "images").mkdir(parents=True)
    settings = settings_of("data=folder", f"data.root={tmp_path / 'project' / 'images'}")
    folder = tmp_path / "project" / "logs" / "a" / "b"
    run = recorded(folder, replace(settings, run_dir=str(folder)))
    (tmp_path / "project").rename(tmp_path / "moved")
    run = RunFolder(tmp_path / "moved" / run.path.relative_to(tmp_path / "project"))
    assert resumed(run).data.root == str(tmp_path / "moved" / "images")
    assert any("which was moved together with the run's folder" in message for message in messages)


def test_arguments__of_a_process_that_another_one_started(tmp_path: Path) -> None:
    run = recorded(tmp_path, settings_of("data=folder", "data.root=/x"))
    given = [f"ckpt_path={run.last}", "callbacks=ema", "seed=0"]
    assert arguments_for_hydra(passed := arguments_for_hydra(given, TRAIN), TRAIN) == passed


def test_record__gone(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    with pytest.raises(HeadstartError, match=r"has no config.yaml: give its data"):
        with_settings_of_run([f"ckpt_path={run.last}", "model.lr=1"])
    given = [f"ckpt_path={run.last}", "data=folder", "data.root=x"]
    assert with_settings_of_run(given) == given


@pytest.mark.parametrize("content", ["data: [", "3", "data: 3", ""])
def test_record__damaged(tmp_path: Path, content: str) -> None:
    run = run_in(tmp_path)
    run.config.write_text(content)
    with pytest.raises(HeadstartError, match=r"the settings of the run, .*/config.yaml, cannot be read: it is damaged"):
        with_settings_of_run([f"ckpt_path={run.last}"])


def test_checkpoint__missing() -> None:
    with pytest.raises(HeadstartError, match=r"ckpt_path=no/such.ckpt does not exist"):
        with_settings_of_run(["ckpt_path=no/such.ckpt"])
