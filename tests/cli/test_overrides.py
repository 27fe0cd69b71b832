"""How paths reach Hydra: any name that the file system allows, while sweeps stay sweeps."""

import os
import random
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from headstart.cli.arguments import register_resolvers, with_plain_paths
from headstart.cli.main import EMBED, PREDICT, TRAIN, arguments_for_hydra
from headstart.config.overrides import literal, parsed_override, value_of, written_as
from headstart.errors import HeadstartError

# Of a folder that does not exist yet, and each is read by Hydra's grammar as something else, or not at all.
HARD = (
    *("Müller", "日本", "a b", " a", "a ", "it's", 'x"y', "'q'", '"q"', "a,b", "a=b", "[a]", "[a,b]", "{b}", "(c)"),
    *("#d", "$e", "%f", "-g", "--h", "t\\", "t\\\\", "\\", "a\\'b", "007", "1e3", "2024_01", "true", "nan", "!x", "&"),
    *("a;b", "a:b", "a::b", "a\nb", "a\tb", "glob(x)", "choice(a,b)", "a${b", "x$", "*", "?"),
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    register_resolvers()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(argument: str) -> object:
    """What Hydra makes of an override, and OmegaConf of its value."""
    parsed = parsed_override(argument)
    assert parsed is not None
    assert not parsed.is_sweep_override()
    return OmegaConf.create({"value": parsed.value()}).value


@pytest.mark.parametrize("name", HARD)
@pytest.mark.parametrize("exists", [True, False])
def test_paths__any_name_is_read_as_it_is_written(folder: Path, name: str, exists: bool) -> None:
    if exists:
        (folder / name).mkdir()
    elif name in ("'q'", '"q"'):
        pytest.skip("in quotes for Hydra")
    for key in ("data.root", "+output", "hydra.run.dir") if "${" not in name else ("data.root",):
        (argument,) = with_plain_paths([f"{key}={name}"], is_sweep=False)
        assert read(argument) == name
        assert value_of(argument) == name


@pytest.mark.slow
def test_paths__random_ones() -> None:
    draw = random.Random(0)
    for _ in range(2000):
        name = "".join(draw.choice(["\\", "'", '"', "$", "{", "}", "${", "a", ",", " "]) for _ in range(5))
        assert read(f"key={literal(name)}") == name, ascii(name)
        assert value_of(f"key={literal(name)}") == name, ascii(name)


def test_paths__existing_ones_in_a_sweep(folder: Path) -> None:
    (folder / "a,b").mkdir()
    assert [read(a) for a in with_plain_paths(["data.root=a,b"], is_sweep=True)] == ["a,b"]
    assert [read(a) for a in with_plain_paths(["hydra.sweep.dir=c,d"], is_sweep=True)] == ["c,d"]


@pytest.mark.parametrize(
    ("value", "values"),
    [
        ("a,b", ["a", "b"]),
        ("Müller,Meier", ["Müller", "Meier"]),
        ("x y, 1e3", ["x y", "1e3"]),
        ("null,bundled", [None, "bundled"]),
        ("'a b','c,d'", ["a b", "c,d"]),
        ("choice(a,b)", ["a", "b"]),
    ],
)
def test_sweep__several_paths_stay_several(value: str, values: list[str]) -> None:
    (argument,) = with_plain_paths([f"model.weights={value}"], is_sweep=True)
    parsed = parsed_override(argument)
    assert parsed is not None
    assert parsed.is_sweep_override()
    assert [read(f"k={text}") for text in parsed.sweep_string_iterator()] == values


@pytest.mark.parametrize(
    "argument",
    [
        "data.root=photos",
        "data.root=/a/b.c-d",
        "ckpt_path=null",
        "data.root=",
        "data.root='x y'",
        "data.root=${oc.env:HOME}/images",
        "hydra.run.dir=logs/${now:%H}",
        "model.lr=1,2",
        "-m",
    ],
)
def test_paths__what_hydra_reads_alike_stays_as_it_is(argument: str) -> None:
    assert with_plain_paths([argument], is_sweep=False) == [argument]


def test_home__is_expanded_unless_it_is_merely_a_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    (folder / "~x").mkdir()
    given = ["data.root=~/images", "source=~", "data.root=~x", "output=~nobody~/x", "data.root=a~/b"]
    expected = ["/home/me/images", "/home/me", str(folder / "~x"), str(folder / "~nobody~/x"), "a~/b"]
    assert [read(argument) for argument in with_plain_paths(given, is_sweep=False)] == expected


def test_run_folder__cannot_have_an_interpolation_that_is_none() -> None:
    with pytest.raises(HeadstartError, match=r"hydra.run.dir=a\$\{b is invalid"):
        with_plain_paths(["hydra.run.dir=a${b"], is_sweep=False)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS rejects such names")
def test_text__that_is_not_utf_8_is_one_sentence(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"caf\xe9")
    for program in (TRAIN, PREDICT, EMBED):
        with pytest.raises(HeadstartError, match=r"^ckpt_path=caf.* is invalid: it is not UTF-8$"):
            arguments_for_hydra([f"ckpt_path={name}"], program)
    (folder / name).mkdir()
    monkeypatch.chdir(folder / name)
    with pytest.raises(HeadstartError, match=r"^the current folder, .*, has a name that is not UTF-8: Hydra cannot"):
        arguments_for_hydra(["seed=1"], TRAIN)


@pytest.mark.parametrize("value", [None, True, False, 3, 1e-05, "32", "true", "a b", "${run_dir}"])
def test_written_as__is_read_as_the_same_value(value: object) -> None:
    for written, expected in ((value, value), ([value, value], [value, value]), ([], [])):
        parsed = parsed_override(f"key={written_as(written)}")
        assert parsed is not None
        assert OmegaConf.to_container(OmegaConf.create({"v": parsed.value()}), resolve=False) == {"v": expected}
