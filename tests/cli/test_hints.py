"""What people type, and the command they get for it."""

from pathlib import Path

import pytest
from conftest import ROOT

from headstart.cli.hints import check_words
from headstart.cli.script import Script
from headstart.config.predict import PredictSettings
from headstart.config.train import TrainSettings
from headstart.config.validation import known_keys
from headstart.errors import HeadstartError

TRAIN = Script("train.py", tuple(known_keys(TrainSettings)), ROOT / "conf")
PREDICT = Script("predict.py", tuple(known_keys(PredictSettings)), ROOT / "conf")


def error_of(script: Script, *arguments: str) -> str:
    with pytest.raises(HeadstartError) as caught:
        check_words(list(arguments), script)
    message = str(caught.value)
    assert not [word for word in ("Lexer", "EOF", "override", "parsing") if word in message]
    return message


def command_for(script: Script, *arguments: str) -> str:
    """The command in the error."""
    before, _, command = error_of(script, *arguments).partition(f" The command: python {script.name} ")
    assert before
    return command


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder with `photos/a.jpg` and `my photos/`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    (tmp_path / "my photos").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("epochs=3", "trainer.max_epochs=3"),
        ("+epochs=3", "trainer.max_epochs=3"),
        ("max_epochs=3", "trainer.max_epochs=3"),
        ("trainer.epochs=3", "trainer.max_epochs=3"),
        ("train.epochs=3", "trainer.max_epochs=3"),
        ("--epochs 3", "trainer.max_epochs=3"),
        ("--epochs=3", "trainer.max_epochs=3"),
        ("--num-epochs 3", "trainer.max_epochs=3"),
        ("--epochs", "trainer.max_epochs=VALUE"),
        ("epochs", "trainer.max_epochs=VALUE"),
        ("-e 3", "trainer.max_epochs=3"),
        ("-e3", "trainer.max_epochs=3"),
        ("lr=0.1", "model.lr=0.1"),
        ("Learning_Rate=0.1", "model.lr=0.1"),
        ("optimizer.lr=0.1", "model.lr=0.1"),
        ("--lr -1", "model.lr=-1"),
        ("model.lr 0.1", "model.lr=0.1"),
        ("model.lr = 0.1", "model.lr=0.1"),
        ("model.lr =0.1", "model.lr=0.1"),
        ("model.lr= 0.1", "model.lr=0.1"),
        ("model.lr:0.1", "model.lr=0.1"),
        ("model.lr", "model.lr=VALUE"),
        ("batch_size=8", "data.batch_size=8"),
        ("bs=8", "data.batch_size=8"),
        ("-b 8 -j 2", "data.batch_size=8 data.num_workers=2"),
        ("workers=2", "data.num_workers=2"),
        ("num_workers=2", "data.num_workers=2"),
        ("wd=0.1", "model.weight_decay=0.1"),
        ("dropout=0.1", "model.dropout=0.1"),
        ("arch=resnet18", "model.arch=resnet18"),
        ("model.name=resnet18", "model.arch=resnet18"),
        ("model=resnet18", "model.arch=resnet18"),
        ("--model resnet18", "model.arch=resnet18"),
        ("resnet18", "model.arch=resnet18"),
        ("model=timm/resnet18", "model.arch=timm/resnet18"),
        ("timm/resnet18.a1_in1k", "model.arch=timm/resnet18.a1_in1k"),
        ("-m model=resnet18,resnet34", "-m model.arch=resnet18,resnet34"),
        ("weights=a.pth", "model.weights=a.pth"),
        ("model=a.pth", "model.weights=a.pth"),
        ("pretrained=true", "model.weights=default"),
        ("--pretrained", "model.weights=default"),
        ("pretrained=false", "model.weights=null"),
        ("pretrained=a.pth", "model.weights=a.pth"),
        ("device=cpu", "trainer.accelerator=cpu"),
        ("device=cuda", "trainer.accelerator=gpu"),
        ("device=cuda:1", "trainer.accelerator=gpu 'trainer.devices=[1]'"),
        ("--gpu 0", "trainer.accelerator=gpu 'trainer.devices=[0]'"),
        ("--gpu", "trainer.accelerator=gpu"),
        ("gpus=2", "trainer.accelerator=gpu trainer.devices=2"),
        ("gpus=0", "trainer.accelerator=cpu"),
        ("trainer=mps", "trainer.accelerator=mps"),
        ("finetune=true", "finetune=gradual"),
        ("freeze=false", "finetune=gradual"),
        ("logger=false", "logger=none"),
        ("amp=true", "trainer.precision=16-mixed"),
        ("patience=3", "callbacks.early_stopping.patience=3"),
        ("early_stopping=false", "callbacks.early_stopping=null"),
        ("--no-cache", "features.cache=false"),
        ("output_dir=out", "hydra.run.dir=out"),
        ("seed 3", "seed=3"),
        ("test", "task=test"),
        ("--eval", "task=test"),
        ("resume=a.ckpt", "ckpt_path=a.ckpt"),
        ("a.ckpt", "ckpt_path=a.ckpt"),
        ("-c a.ckpt", "ckpt_path=a.ckpt"),
        ("photos", "data=folder data.root=photos"),
        ("/no/such/folder", "data=folder data.root=/no/such/folder"),
        ("--data photos", "data=folder data.root=photos"),
        ("--data=photos", "data=folder data.root=photos"),
        ("data=photos", "data=folder data.root=photos"),
        ("data=labels.csv data.root=photos", "data=csv data.csv=labels.csv data.root=photos"),
        ("labels.csv data.root=photos", "data=csv data.csv=labels.csv data.root=photos"),
        ("labels.TSV data.root=photos", "data=csv data.csv=labels.TSV data.root=photos"),
        ("data=labels.txt data.root=photos", "data=csv data.csv=labels.txt data.root=photos"),
        ("data photos", "data=folder data.root=photos"),
        ("data_dir=photos", "data=folder data.root=photos"),
        ("--data-dir photos", "data=folder data.root=photos"),
        ("data.root photos", "data=folder data.root=photos"),
        ("data.root = photos", "data=folder data.root=photos"),
        ("data.root=my photos", "data=folder 'data.root=my photos'"),
        ("data=folder photos lr=1", "data=folder data.root=photos model.lr=1"),
    ],
)
def test_train__gives_the_command_that_was_meant(typed: str, right: str) -> None:
    assert command_for(TRAIN, *typed.split()) == right


def test_train__a_file_without_extension_is_a_table_unless_it_is_an_archive(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("path,label\n")
    (tmp_path / "images").write_bytes(b"PK\5\6" + bytes(18))
    assert command_for(TRAIN, f"data={tmp_path / 'labels'}") == f"data=csv data.csv={tmp_path / 'labels'}"
    assert command_for(TRAIN, f"data={tmp_path / 'images'}") == f"data=folder data.root={tmp_path / 'images'}"


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("a.ckpt photos", "ckpt_path=a.ckpt source=photos"),
        ("photos a.ckpt", "ckpt_path=a.ckpt source=photos"),
        ("a.ckpt photos/a.jpg photos/b.jpg", "ckpt_path=a.ckpt 'source=photos/*.jpg'"),
        ("a.ckpt photos/a.jpg other/b.jpg", "ckpt_path=a.ckpt source=."),
        ("photos", "ckpt_path=RUN/checkpoints/best.ckpt source=photos"),
        ("a.ckpt", "ckpt_path=a.ckpt source=FILE_OR_FOLDER"),
        ("--ckpt a.ckpt --source photos", "ckpt_path=a.ckpt source=photos"),
        ("model=a.ckpt data=photos", "ckpt_path=a.ckpt source=photos"),
        ("--weights a.ckpt --input photos", "ckpt_path=a.ckpt source=photos"),
        ("ckpt_path=a.ckpt data.root=photos", "ckpt_path=a.ckpt source=photos"),
        ("ckpt_path=a.ckpt source=photos k=5", "ckpt_path=a.ckpt source=photos topk=5"),
        ("a.ckpt photos --device cuda:0", "ckpt_path=a.ckpt source=photos accelerator=cuda"),
        ("a.ckpt photos --gpu", "ckpt_path=a.ckpt source=photos accelerator=cuda"),
        ("a.ckpt photos --annotate", "ckpt_path=a.ckpt source=photos annotate=true"),
        ("a.ckpt photos -o out", "ckpt_path=a.ckpt source=photos output=out"),
    ],
)
def test_predict__gives_the_command_that_was_meant(typed: str, right: str) -> None:
    assert command_for(PREDICT, *typed.split()) == right


@pytest.mark.parametrize(
    "typed",
    [
        "model.lr=0.1 trainer.max_epochs=3 seed=1",
        "++model.lr=0.1 +trainer.x=1 ~callbacks.early_stopping",
        "data=folder data.root=nowhere model=mobilenet_v2 finetune=gradual experiment=quickstart",
        "-m model=resnet50,mobilenet_v2 model.lr=0.1,0.2 hydra/launcher=joblib hydra.launcher.n_jobs=2",
        "--multirun sweep=optuna hydra.sweeper.n_trials=3",
        "--cfg job --resolve",
        "-cp somewhere -cn config.yaml hydra.run.dir=x",
        "callbacks.mine._target_=x callbacks.mine.mode=max logger.csv.name=a",
        "--help whatever",
        "model.weights=null model.arch=vit_b_16",
        "unknown.key=3",  # Hydra rejects it, and headstart names the nearest one
    ],
)
def test_train__settings_pass(typed: str) -> None:
    check_words(typed.split(), TRAIN)


@pytest.mark.parametrize(
    ("script", "typed", "sentence"),
    [
        (TRAIN, "optimizer=sgd", "there is no setting 'optimizer': the optimizer is AdamW"),
        (TRAIN, "num_classes=10", "the class folders are the classes"),
        (TRAIN, "model=resnet", "model=resnet is not available: did you mean resnet50?"),
        (TRAIN, "model=5", "model=5 is not available: choose one of mobilenet_v2, mobilenet_v3_small, resnet50"),
        (TRAIN, "data=foldr", "data=foldr is not available: did you mean folder?"),
        (TRAIN, "logger=wandb", "logger=wandb is not available: choose one of none, tensorboard"),
        (TRAIN, "nonsense", "nonsense is not a setting: settings are written key=value"),
        (TRAIN, "data.root=new shots", "shots is not a setting: settings are written key=value, with quotes"),
        (TRAIN, "--colour red", "there is no setting 'colour'"),
        (PREDICT, "nonsense", "nonsense is not a setting"),
    ],
)
def test_what_has_no_translation__says_why(script: Script, typed: str, sentence: str) -> None:
    assert sentence in error_of(script, *typed.split())


def test_many_mistakes__are_cut_but_all_are_in_the_command() -> None:
    message = error_of(PREDICT, *(f"photos/{number}.jpg" for number in range(20)))
    assert "… and 17 more." in message
    assert message.endswith("'source=photos/*.jpg'")


def test_run_folder__is_a_checkpoint(folder: Path) -> None:
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "checkpoints" / "best.ckpt").touch()
    assert command_for(PREDICT, "run", "photos") == "ckpt_path=run source=photos"
    assert command_for(TRAIN, "run") == "ckpt_path=run"
