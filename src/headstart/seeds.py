"""Random numbers as pure functions of what they are for."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """A 32-bit seed that depends on all `parts` and on nothing else.

    32 bits, because that is all PyTorch's Mersenne Twister takes of a seed on the CPU.
    """
    text = "\x00".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=4).digest(), "little")
