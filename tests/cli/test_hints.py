"""What people type, and the command they get for it."""

import sys
from pathlib import Path

import pytest

from headstart import __main__ as entry
from headstart.cli.arguments import Program, with_plain_paths
from headstart.cli.hints import understood
from headstart.cli.main import PREDICT, TRAIN
from headstart.config.checks import similar
from headstart.config.overrides import parsed_override
from headstart.errors import HeadstartError
from headstart.log import quoted
from headstart.predict.sources import find_images


def read(program: Program, *arguments: str) -> str:
    """What a command line is read as, in words of a shell."""
    return " ".join(map(quoted, understood(list(arguments), program)))


def error_of(program: Program, *arguments: str) -> str:
    with pytest.raises(HeadstartError) as caught:
        understood(list(arguments), program)
    message = str(caught.value)
    assert not [word for word in ("Lexer", "EOF", "override", "parsing", "RUN") if word in message]
    return message


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
def test_train__does_what_was_meant(typed: str, right: str, messages: list[str]) -> None:
    assert read(TRAIN, *typed.split()) == right
    (message,) = messages
    assert message.startswith("read as: ")


def test_train__a_file_without_extension_is_a_table_unless_it_is_an_archive(tmp_path: Path) -> None:
    (tmp_path / "labels").write_text("path,label\n")
    (tmp_path / "images").write_bytes(b"PK\5\6" + bytes(18))
    assert read(TRAIN, f"data={tmp_path / 'labels'}") == f"data=csv data.csv={tmp_path / 'labels'}"
    assert read(TRAIN, f"data={tmp_path / 'images'}") == f"data=folder data.root={tmp_path / 'images'}"


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("a.ckpt photos", "ckpt_path=a.ckpt source=photos"),
        ("photos", "source=photos"),
        ("a.ckpt photos/a.jpg photos", "ckpt_path=a.ckpt 'source=[photos/a.jpg,photos]'"),
        ("photos a.ckpt", "ckpt_path=a.ckpt source=photos"),
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
def test_predict__does_what_was_meant(typed: str, right: str) -> None:
    assert sorted(read(PREDICT, *typed.split()).split(" ")) == sorted(right.split(" "))


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
def test_train__settings_pass(typed: str, messages: list[str]) -> None:
    assert understood(typed.split(), TRAIN) == typed.split()
    assert messages == []


@pytest.mark.parametrize(
    ("program", "typed", "sentence"),
    [
        (TRAIN, "optimizer=sgd", "there is no setting 'optimizer': the optimizer is AdamW"),
        (TRAIN, "num_classes=10", "the class folders are the classes"),
        (TRAIN, "model=resnet", "model=resnet is not available: did you mean resnet50?"),
        (TRAIN, "model=5", "model=5 is not available: choose one of clip_vit_b16, convnextv2_tiny, dinov2_base,"),
        (TRAIN, "data=foldr", "data=foldr is not available: did you mean folder?"),
        (
            TRAIN,
            "logger=neptune",
            "logger=neptune is not available: choose one of csv, mlflow, none, tensorboard,",
        ),
        (TRAIN, "nonsense", "nonsense is not a setting: settings are written key=value"),
        (TRAIN, "data.root=new shots", "shots is not a setting: settings are written key=value, with quotes"),
        (TRAIN, "--colour red", "there is no setting 'colour'"),
        (PREDICT, "nonsense", "nonsense is not a setting"),
    ],
)
def test_what_has_no_translation__says_why(program: Program, typed: str, sentence: str) -> None:
    assert sentence in error_of(program, *typed.split())


@pytest.mark.parametrize(
    ("program", "typed", "sentence"),
    [
        (TRAIN, "--epochs", "trainer.max_epochs needs a value: python train.py trainer.max_epochs=VALUE"),
        (TRAIN, "model.lr", "model.lr needs a value"),
        (TRAIN, "finetune=true", "finetune=gradual or finetune=full"),
        (TRAIN, "freeze=false", "finetune=gradual (the top of the backbone, stage by stage) or finetune=full"),
        (TRAIN, "views=4", "did you mean features.views=4 or evaluation.views=4?"),
        (TRAIN, "name=mine", "did you mean hydra.run.dir=mine?"),
        (TRAIN, "dir=nowhere", "did you mean data.root=nowhere?"),
        (TRAIN, "lr=0.1 model.lr=0.2", "model.lr=0.1 and model.lr=0.2 contradict each other: model.lr has one value"),
        (TRAIN, "photos /no/photos", "contradict each other: data.root has one value"),
        (TRAIN, "data.split.test=10", "the test split has what data.split.train and data.split.valid leave"),
        (TRAIN, "test_size=0.1", "the test split has what data.split.train and data.split.valid leave"),
        (TRAIN, "test=0.1", "the test split has what data.split.train and data.split.valid leave"),
        (TRAIN, "model=dinov2", "timm has it, as model.arch=timm/vit_small_patch14_dinov2"),
        (TRAIN, "mode=finetune", "task= is one of train, test, report"),
    ],
)
def test_what_is_not_certain__is_refused(program: Program, typed: str, sentence: str) -> None:
    assert sentence in error_of(program, *typed.split())


@pytest.mark.parametrize(
    "typed", ["model.lrr=1", "data.split.tset=1", "finetune.lr=1", "export.epochs=3", "model.test=1"]
)
def test_misspelled_key__stays_and_is_an_error_later(typed: str) -> None:
    assert understood([typed], TRAIN) == [typed]


def test_folder_called_like_a_task(folder: Path) -> None:
    (folder / "test").mkdir()
    assert "test is a task and a folder here" in error_of(TRAIN, "test")


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("task=compare photos vgg11 vgg13", "task=compare data=folder data.root=photos 'model.archs=[vgg11,vgg13]'"),
        ("task=export a.ckpt format=pt2", "task=export ckpt_path=a.ckpt export.format=pt2"),
        ("task=label a.ckpt photos count=5", "task=label ckpt_path=a.ckpt label.count=5 label.source=photos"),
        ("task=label a.ckpt source=a --serve=false", "task=label ckpt_path=a.ckpt label.serve=false label.source=a"),
        ("task=export a.ckpt --precision int8", "task=export ckpt_path=a.ckpt export.precision=int8"),
        ("dataset=shapes", "data=shapes"),
        ("a.ckpt lr=1e-4", "ckpt_path=a.ckpt model.lr=1e-4"),
        ("data.split.val=0.1", "data.split.valid=0.1"),
    ],
)  # fmt: skip
def test_train__tasks(typed: str, right: str) -> None:
    assert sorted(read(TRAIN, *typed.split())) == sorted(right)


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [("dinov2", []), ("dinov2_small", []), ("resent50", ["resnet50"]), ("mobilenetv2", ["mobilenet_v2"]), ("x", [])],
)
def test_suggestion__is_of_the_same_family(typed: str, suggested: list[str]) -> None:
    names = ["swin_v2_t", "mvitv2_small", "mobilenet_v2", "resnet50", "vit_b_16"]
    assert similar(typed, names) == suggested


def test_several_images__are_one_source(folder: Path) -> None:
    (folder / "b, c.jpg").touch()
    arguments = understood(["a.ckpt", "photos/a.jpg", "b, c.jpg"], PREDICT)
    (source,) = (a for a in with_plain_paths(arguments, is_sweep=False) if a.startswith("source="))
    parsed = parsed_override(source)
    assert parsed is not None
    assert parsed.value() == ["photos/a.jpg", "b, c.jpg"]
    assert find_images(["photos", "b, c.jpg", "photos/a.jpg"]) == [Path("photos/a.jpg"), Path("b, c.jpg")]


@pytest.mark.parametrize(
    ("typed", "program", "arguments"),
    [
        ("train photos", "train", ["photos"]),
        ("audit photos", "train", ["task=audit", "photos"]),
        ("export run format=pt2", "train", ["task=export", "run", "format=pt2"]),
        ("label run photos", "train", ["task=label", "run", "photos"]),
        ("resume run", "train", ["run"]),
        ("predict run photos", "predict", ["run", "photos"]),
        ("embed run photos", "embed", ["run", "photos"]),
    ],
)
def test_entry__commands(monkeypatch: pytest.MonkeyPatch, typed: str, program: str, arguments: list[str]) -> None:
    ran: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("headstart.cli.main.start", lambda started: ran.append((started.name, sys.argv[1:])))
    monkeypatch.setattr(sys, "argv", ["headstart", *typed.split()])
    entry.main()
    assert ran == [(program, arguments)]


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [("trian photos", "did you mean train?"), ("photos", "headstart train photos or"), ("resume", "needs a run")],
)
def test_entry__what_is_no_command(monkeypatch: pytest.MonkeyPatch, typed: str, sentence: str) -> None:
    monkeypatch.setattr(sys, "argv", ["headstart", *typed.split()])
    with pytest.raises(SystemExit, match=sentence):
        entry.main()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_entry__lists_all_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["headstart", *arguments])
    entry.main()
    shown = capsys.readouterr().out
    assert all(f"headstart {name} " in shown for name in entry.PROGRAMS)


def test_run_folder__is_a_checkpoint(folder: Path) -> None:
    (folder / "run" / "checkpoints").mkdir(parents=True)
    (folder / "run" / "checkpoints" / "best.ckpt").touch()
    assert read(PREDICT, "run", "photos") == "ckpt_path=run source=photos"
    assert read(PREDICT, "photos", "run") == "ckpt_path=run source=photos"
    assert read(TRAIN, "run") == "ckpt_path=run"
    assert read(PREDICT, "last", "photos") == "ckpt_path=last source=photos"
    (folder / "logs").mkdir()
    (folder / "run").rename(folder / "logs" / "run")
    assert read(PREDICT, "last", "photos") == "ckpt_path=last source=photos"
    assert read(TRAIN, "run") == "ckpt_path=run"
