"""A trial's result is that of a run of its own, whichever trials the process ran before: for every key there is."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT, draw_classes
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from PIL import Image

from headstart import pipeline
from headstart.cli.arguments import register_resolvers
from headstart.config.train import TrainSettings, check_train, known_keys
from headstart.data.images import allowed_pixels
from headstart.errors import HeadstartError
from headstart.features.encoder import torch_settings_restored
from headstart.run_folder import RunFolder
from headstart.sweeping import trial
from headstart.sweeping.trial import forget_shared, run_trial
from headstart.sweeping.trial_record import read_trial

GROUPS = ("data", "model", "finetune", "features", "trainer", "augment", "callbacks", "logger", "sweep")
BASE = (
    *("data=folder", "data.root=ROOT", "data.split.train=5", "data.split.valid=3", "data.batch_size=4"),
    *("data.image_size=32", "data.resize_size=40", "data.num_workers=0", "data.on_unreadable=skip", "augment=light"),
    *("model.arch=timm/test_vit", "model.weights=null", "model.lr=0.01", "model.hidden_dim=16"),
    *("trainer=cpu", "trainer.max_epochs=2", "features.compile=false", "features.precision=32", "report=none"),
    "features.dir=FEATURES",
)
CSV = "data=csv data.csv=ROOT/a.csv data.columns.split=null data.group=null data.split.train=0.5 data.split.valid=0.3"
SHAPES = "data=shapes data.root=ROOT/../shapes data.per_class=4 data.split.train=2 data.split.valid=1"
TUNED = "finetune=full model.arch=timm/test_resnet"
STAGE = f"{TUNED} finetune.rest=null finetune.epochs=[1] finetune.lr_factors=[1]"


@dataclass(frozen=True)
class Pair:
    """Two values of a key: `other`, and what the key is with `given` and the others of its group before it.

    Results differ, unless it has `no_effect`; None: they may.
    """

    other: str
    given: str = ""
    no_effect: bool | None = False


def _keys_of_loggers(*names: str) -> list[str]:
    paths = {name: ROOT / "conf" / "logger" / f"{name}.yaml" for name in names}
    entries: dict[str, dict[str, Any]] = {name: dict(OmegaConf.load(path))[name] for name, path in paths.items()}
    return [f"logger.{name}.{key}" for name, entry in entries.items() for key in entry]


def same(other: str, given: str = "") -> Pair:
    return Pair(other, given, no_effect=True)


PAIRS: dict[str, Pair] = {
    "data.batch_size": Pair("5"),
    "data.num_workers": same("1"),
    "data.near_duplicates": same("false"),
    "data.memory_gb": same("0"),
    "data.corrections": Pair("ROOT/../corrections.csv"),
    "data.resize_size": Pair("36"),
    "data.image_size": Pair("16"),
    "data.interpolation": Pair("nearest"),
    "data.mean": Pair("[0.1,0.2,0.3]"),
    "data.std": Pair("[0.1,0.2,0.3]"),
    "data.resize_mode": Pair("squash"),
    "data.root": Pair("ROOT/../uneven", "data.split.train=0.6 data.split.valid=0.2"),
    "data.balance": Pair("loss", "data.split.train=0.6 data.split.valid=0.2"),
    "data.cache_gb": same("1"),
    "data.layout": same("classes"),
    "data.split.train": Pair("4"),
    "data.split.valid": Pair("2"),
    "data.seed": Pair("1"),
    "data.on_unreadable": Pair("error"),
    # Copies are in one split anyway, if headstart draws it.
    "data.on_leak": same("drop"),
    "data.depth": Pair("8"),
    "data.max_pixels": Pair("1000"),
    "data.group": Pair("auto", CSV),
    "data.csv": Pair("ROOT/b.csv", CSV),
    "data.encoding": same("cp1252", CSV),
    "data.missing": same("[nothing]", CSV),
    "data.exclude": Pair("['0.*']"),
    "data.columns.path": Pair("path2", CSV),
    "data.columns.label": Pair("label2", CSV),
    "data.columns.split": Pair("split", CSV),
    "data.folds": Pair("2", "data.folds=3 data.fold=0"),
    "data.fold": Pair("1", "data.folds=3 data.fold=0"),
    "data.classes": Pair("pretraining", SHAPES),
    "data.per_class": Pair("3", SHAPES),
    "data.drawing_seed": Pair("1", SHAPES),
    "model.weights": Pair("ROOT/../weights.pt"),
    "model.pooling": Pair("cls+avg"),
    "model.arch": Pair("shufflenet_v2_x0_5"),
    "model.hidden_dim": Pair("8"),
    "model.dropout": Pair("0.1"),
    "model.lr": Pair("0.02"),
    "model.weight_decay": Pair("0.1"),
    "model.label_smoothing": Pair("0.1"),
    "model.schedule": Pair("cosine"),
    "model.warmup": Pair("0.5"),
    "model.head": Pair("linear"),
    "finetune.batch_norm": Pair("false", TUNED),
    "finetune.epochs": Pair("[0]", STAGE),
    "finetune.lr_factors": Pair("[0.5]", STAGE),
    "finetune.rest": Pair("1", TUNED),
    "finetune.mixup": Pair("0.5", TUNED),
    "finetune.cutmix": Pair("0.5", TUNED),
    "features.precision": Pair("bf16"),
    "features.cache": Pair("false", no_effect=None),  # rounded differently, in batches of another size
    "features.views": Pair("1"),
    "features.dir": same("FEATURES/other"),
    "features.max_gb": same("1"),
    "sweep.objective": same("valid/acc"),
    "sweep.ensemble": same("2"),
    "report": same("full"),
    "seed": Pair("1"),
    "evaluation.views": same("2"),  # of the best trial, when it is tested
    "augment.transforms": Pair("[]"),
    "callbacks.checkpoint.monitor": Pair("valid/acc"),
    "callbacks.early_stopping.monitor": same("valid/acc"),
    "callbacks.early_stopping.patience": same("2"),
    "callbacks.early_stopping.stopping_threshold": Pair("100"),
    "callbacks.ema.decay": Pair("0.01", "callbacks=ema"),
    "logger.tensorboard.default_hp_metric": same("true"),
    "logger.tensorboard.name": same("x"),
    "logger.tensorboard.save_dir": same("ROOT/../events"),
    "logger.tensorboard.version": same("1"),
    "trainer.accelerator": same("auto"),
    "trainer.benchmark": same("true"),
    "trainer.detect_anomaly": same("true"),
    "trainer.deterministic": same("true"),
    "trainer.enable_model_summary": same("true"),
    "trainer.enable_progress_bar": same("false"),
    "trainer.gradient_clip_val": Pair("0.01"),
    "trainer.gradient_clip_algorithm": Pair("value"),
    "trainer.limit_val_batches": Pair("1"),
    "trainer.log_every_n_steps": same("1"),
    "trainer.max_steps": Pair("5"),
    "trainer.min_epochs": same("1"),
    "trainer.min_steps": same("1"),
    "trainer.num_sanity_val_steps": same("1"),
    "trainer.precision": Pair("bf16-mixed"),
    "trainer.val_check_interval": same("1.0"),
    # From here on, after those that would have no effect with fewer steps.
    "trainer.accumulate_grad_batches": Pair("2"),
    "trainer.limit_train_batches": Pair("2"),
    "trainer.overfit_batches": Pair("1"),
    "trainer.max_epochs": Pair("3"),
    "trainer.check_val_every_n_epoch": Pair("2"),
}
# Why no trial of a test can have two values of these.
NOT_SWEPT = {
    "features.compile": "compiling takes a minute, and compiled code only rounds differently",
    "data.maker": "it is chosen with data=, which has a root of its own",
    **dict.fromkeys(("data.categories", "data.archive", "data.archive_md5", "data.url"), "of Caltech-256, 1.2 GB"),
    **dict.fromkeys(("sweep.over", "sweep.fixed", "run_dir"), "set by train.py itself"),
    **dict.fromkeys(("ckpt_path", "task", "model.archs"), "rejected in a sweep"),
    **dict.fromkeys(("export.format", "export.precision", "export.input", "export.path"), "of another task"),
    **dict.fromkeys(("review.browser", "label.source", "label.count", "label.serve"), "of another task"),
    **dict.fromkeys(
        ("callbacks.early_stopping._target_", "callbacks.checkpoint._target_", "callbacks.ema._target_"),
        "another class has other keys",
    ),
    "logger.tensorboard._target_": "another class has other keys",
    **dict.fromkeys(_keys_of_loggers("csv", "wandb", "mlflow"), "another logger's"),
    **dict.fromkeys(("callbacks", "logger"), "their entries are swept"),
    **dict.fromkeys(("trainer.devices", "trainer.num_nodes", "trainer.strategy"), "a trial runs in one process"),
    **dict.fromkeys(("trainer.barebones", "trainer.enable_checkpointing", "trainer.model_registry"), "rejected"),
    **dict.fromkeys(("trainer.limit_predict_batches", "trainer.fast_dev_run"), "rejected"),
    **dict.fromkeys(("trainer.max_time", "trainer.profiler"), "what it ends depends on the time, or it measures that"),
    **dict.fromkeys(("trainer.sync_batchnorm", "trainer.inference_mode"), "of several processes, and of validation"),
    "trainer.enable_autolog_hparams": "of what loggers are told",
}


def leaves(values: Any, prefix: str = "") -> Iterator[str]:
    """The keys of nested settings."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@pytest.mark.slow
def test_every_key_is_swept_or_has_a_reason_not_to_be() -> None:
    keys = set(known_keys(TrainSettings))
    # To compose them takes longer than anything else here: a file of each group at a time.
    files = ([f"{group}={file.stem}" for file in (ROOT / "conf" / group).glob("*.yaml")] for group in GROUPS)
    for chosen in zip_longest(*files):
        keys |= set(leaves(OmegaConf.to_container(composed(*filter(None, chosen)), resolve=False)))
    assert keys - {"hydra"} == PAIRS.keys() | NOT_SWEPT.keys()
    assert not PAIRS.keys() & NOT_SWEPT.keys()


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf")):
        return compose("train", list(overrides), return_hydra_config=hydra)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders with an unreadable file, an image of 16 bits, and one that is in two splits; tables; others."""
    root = draw_classes(tmp_path_factory.mktemp("every_key") / "images", 12)
    (root / "red" / "0.jpg").write_bytes(b"no image")
    shutil.copy(root / "red" / "1.jpg", root / "red" / "7.jpg")
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(root / "green" / "0.png")
    paths = sorted(path for path in root.glob("*/*.jpg") if path != root / "red" / "0.jpg")
    for table, shift in (("a", 0), ("b", 1)):
        lines = ["path,path2,label,label2,split,group"]
        for number, path in enumerate(paths):
            other, label = paths[number - 3], path.parent.name
            split = ("train", "valid", "test")[(number + shift) % 3]
            paired = f"{path.relative_to(root)},{other.relative_to(root)}"
            lines.append(f"{paired},{label},{number % 2},{split},{number // (2 + shift)}")
        (root / f"{table}.csv").write_text("\n".join(lines))
    (root.parent / "corrections.csv").write_text("path,action,label\nred/2.jpg,relabel,blue\nred/3.jpg,leave_out,\n")
    uneven = draw_classes(root.parent / "uneven", 12, first_seed=50)
    for number in range(5, 12):
        (uneven / "red" / f"{number}.jpg").unlink()
    return root


class Runner:
    """Runs trials of one process, and runs of their own, with settings in which ROOT and FEATURES are folders."""

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self._folder, self._count = root, folder, 0
        self._alone: dict[tuple[str, ...], Any] = {}

    def trial(self, *overrides: str) -> dict[str, float] | str:
        """What a trial that comes after the earlier ones achieves; or why it failed."""
        run = self._new_run()
        config = self._config(run, "features", overrides)
        with open_dict(config.hydra):
            config.hydra.runtime.output_dir, config.hydra.job.num = str(run.path), self._count
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        run_trial(config)
        found = read_trial(run)
        assert found is not None
        return found.reason or without_seconds(found.metrics)

    def alone(self, *overrides: str) -> dict[str, float] | str:
        """The same settings in a run of their own, without anything that other runs have stored."""
        if overrides not in self._alone:
            run = self._new_run()
            config = self._config(run, f"features{self._count}", overrides)
            with open_dict(config):
                del config["hydra"]
            try:
                with allowed_pixels(config.data.max_pixels), torch_settings_restored():
                    pipeline.train(check_train(config))
                self._alone[overrides] = without_seconds(json.loads(run.metrics.read_text()))
            except HeadstartError as error:
                self._alone[overrides] = str(error)
        return self._alone[overrides]

    def _new_run(self) -> RunFolder:
        self._count += 1
        path = self._folder / str(self._count) / "run"
        path.mkdir(parents=True)
        return RunFolder(path)

    def _config(self, run: RunFolder, features: str, overrides: tuple[str, ...]) -> DictConfig:
        texts = [text.replace("ROOT", str(self._root)) for text in (*BASE, *overrides)]
        config = composed(*texts, "run_dir=RUN", hydra=True)
        config.run_dir = str(run.path)
        config.features.dir = config.features.dir.replace("FEATURES", str(self._folder / features))
        return config


def without_seconds(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name.startswith("valid/") or "epoch" in name}


@pytest.fixture(scope="module")
def runner(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    forget_shared()
    with pytest.MonkeyPatch.context() as patch:
        # It takes as long as an epoch.
        patch.setattr(trial, "collect_garbage", lambda: None)
        yield Runner(root, tmp_path_factory.mktemp("every_key_runs"))
    forget_shared()
    HydraConfig.instance().cfg = None


# Keys that change a result, by their group; the others are told apart by nothing, and tried together.
CHANGING = {key: pair for key, pair in PAIRS.items() if pair.no_effect is not True}
HARMLESS = {key: pair for key, pair in PAIRS.items() if pair.no_effect is True}
# What data and features, which trials share, depend on; of the other keys, only all at once need a run of their own.
SHARED = ("data.", "model.arch", "model.weights", "model.pooling", "features.", "seed", "augment.")


def override_of(key: str) -> str:
    return f"++{key}={PAIRS[key].other}"


@pytest.mark.slow
@pytest.mark.parametrize("group", dict.fromkeys(key.partition(".")[0] for key in CHANGING))
def test_sweep_over_each_key__trials_equal_runs_of_their_own(runner: Runner, group: str) -> None:
    """Each trial has one key changed since the trial before, so that no other change can hide a stale result."""
    keys = [key for key in CHANGING if key.partition(".")[0] == group]
    for given in dict.fromkeys(CHANGING[key].given for key in keys):
        first = now = tuple(given.split())
        before = runner.trial(*first)
        for key in (key for key in keys if CHANGING[key].given == given):
            after = runner.trial(*now, override_of(key))
            assert CHANGING[key].no_effect is None or after != before, key
            if key.startswith(SHARED) or isinstance(after, str):
                assert after == runner.alone(*now, override_of(key)), key
            if isinstance(after, str):
                assert runner.trial(*now) == before, key
            else:
                now, before = (*now, override_of(key)), after
        assert before == runner.alone(*now), now
        assert runner.trial(*first) == runner.alone(*first), given


@pytest.mark.slow
@pytest.mark.parametrize("given", dict.fromkeys(pair.given for pair in HARMLESS.values()))
def test_sweep_over_harmless_keys__trials_equal_a_run_without_them(runner: Runner, given: str) -> None:
    first, keys = tuple(given.split()), [key for key, pair in HARMLESS.items() if pair.given == given]
    alone = runner.alone(*first)
    found = [runner.trial(*first), runner.trial(*first, *map(override_of, keys)), runner.trial(*first)]
    if found != [alone] * 3:
        # One of them is to blame.
        assert {key: runner.trial(*first, override_of(key)) for key in keys} == dict.fromkeys(keys, alone)
    assert found == [alone] * 3
