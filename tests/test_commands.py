import os
import subprocess
import sys

import pytest

from headstart.log import command, quoted


@pytest.mark.parametrize(
    "word", ["a b", "it's", "$HOME", "a\\", "[1]", "日本", "x\ny", "\x1b[0m", os.fsdecode(b"caf\xe9 'x'"), "", "a=b,c"]
)
def test_quoted__a_shell_reads_the_same_word(word: str) -> None:
    text = quoted(word)
    assert "\n" not in text
    done = subprocess.run(["bash", "-c", b"printf %s " + os.fsencode(text)], capture_output=True, check=True)
    assert done.stdout == os.fsencode(word)


def test_command__is_that_of_the_script_beside_the_one_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py"])
    assert command("predict.py", ["ckpt_path=a b", "topk=3"]) == "python predict.py 'ckpt_path=a b' topk=3"
    monkeypatch.setattr(sys, "argv", ["/my tools/train.py"])
    assert command("predict.py", []) == "python '/my tools/predict.py'"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest"])
    assert command("predict.py", []) == "python predict.py"
