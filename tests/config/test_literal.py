import random

import pytest
from omegaconf import OmegaConf

from headstart.config.train import literal_text, literals, plain_text


@pytest.mark.parametrize("text", ["a", "", "a$b", "${x}", "a${b", "\\${x}", "\\\\${x", "t\\", "é"])
def test_literal_text__is_read_as_the_same_text(text: str) -> None:
    written = literal_text(text)
    assert OmegaConf.create({"value": written}).value == text
    assert plain_text(written) == text


@pytest.mark.slow
def test_literal_text__random_texts() -> None:
    draw = random.Random(0)
    parts = ["\\", "$", "{", "}", "${x}", "a", "${"]
    for _ in range(2000):
        text = "".join(draw.choice(parts) for _ in range(draw.randint(0, 6)))
        assert OmegaConf.create({"value": literal_text(text)}).value == text, ascii(text)
        assert plain_text(literal_text(text)) == text, ascii(text)


def test_plain_text__interpolations_stay() -> None:
    assert [plain_text(text) for text in ("${x}", r"a\\${x}", r"\a${x}")] == ["${x}", r"a\\${x}", r"\a${x}"]


def test_literals__in_a_file() -> None:
    values = {"a": ["x ${y}", 1, None], "b": {"c": "é"}}
    text = OmegaConf.to_yaml(OmegaConf.create(literals(values)))
    assert OmegaConf.to_container(OmegaConf.create(text), resolve=True) == values
