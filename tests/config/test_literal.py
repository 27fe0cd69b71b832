import random

import pytest
from omegaconf import OmegaConf

from headstart.cli.overrides import register_resolvers
from headstart.config.train import encodable, is_encodable, literal_text, literals, plain_text


@pytest.mark.parametrize("text", ["a", "", "a$b", "${x}", "a${b", "\\${x}", "\\\\${x", "t\\", "caf\udce9", "\\\udce9"])
def test_literal_text__is_read_as_the_same_text(text: str) -> None:
    register_resolvers()
    written = literal_text(text)
    assert is_encodable(written)
    assert OmegaConf.create({"value": written}).value == text
    assert plain_text(written) == text


def test_literal_text__random_texts() -> None:
    register_resolvers()
    draw = random.Random(0)
    parts = ["\\", "$", "{", "}", "${x}", "a", "\udce9", "${byte:e9}", "${"]
    for _ in range(2000):
        text = "".join(draw.choice(parts) for _ in range(draw.randint(0, 6)))
        assert OmegaConf.create({"value": literal_text(text)}).value == text, ascii(text)
        assert plain_text(literal_text(text)) == text, ascii(text)


def test_literals__in_a_file(tmp_path: str) -> None:
    register_resolvers()
    values = {"a": ["x ${y}", 1, None], "b": {"c": "caf\udce9"}}
    text = OmegaConf.to_yaml(OmegaConf.create(literals(values)))
    assert OmegaConf.to_container(OmegaConf.create(text), resolve=True) == values


def test_encodable__keeps_interpolations() -> None:
    assert encodable("${now:%H}/caf\udce9") == "${now:%H}/caf${byte:e9}"
    assert not is_encodable("caf\udce9")
    assert is_encodable("é")
