"""Writes the README's table of figures from results/*.json.

python benchmarks/table.py
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- figures: made by benchmarks/table.py -->\n", "<!-- end of figures -->"


def rows() -> list[tuple[str, str, str, str]]:
    """What was measured, the plain recipe's figure, ours, and the ratio."""
    encode, runs, sweep, predict, memory = (
        json.loads((HERE / "results" / f"{name}.json").read_text())
        for name in ("encode", "cold_and_warm_run", "sweep", "predict_1000", "memory")
    )
    rate, seconds = encode["pictures_per_second"], runs["seconds"]
    peaks = list(memory["peak_megabytes"].values())
    plain, fast = f"{seconds['plain']:.0f} s", f"{rate['ours']:.1f}"
    return [
        ("encode, pictures/s from JPEG", f"{rate['plain']:.1f}", fast, ratio(encode["ratio_to_plain"])),
        ("… against the recipe tuned by hand", f"{rate['tuned']:.1f}", fast, ratio(encode["ratio_to_tuned"])),
        ("cold run, 20 epochs", plain, f"{seconds['cold']:.0f} s", ratio(runs["cold_ratio"])),
        ("warm run, the same again", plain, f"{seconds['warm']:.1f} s", ratio(runs["warm_ratio"])),
        (f"sweep of {sweep['trials']} trials, cold", *in_seconds(sweep), ratio(sweep["ratio"])),
        ("predict 1,000 pictures", *in_seconds(predict), ratio(predict["ratio"])),
        ("encoding, of the bf16 matrix rate", "", f"{encode['fraction_of_matrix_rate']:.0%}", ""),
        ("peak memory of the cold run", "", f"{peaks[0] / 1e3:.2f} GB", ""),
        ("peak memory, 20 → 200 views", "", f"{peaks[1] / 1e3:.2f} → {peaks[2] / 1e3:.2f} GB", ""),
    ]


def in_seconds(result: dict[str, Any]) -> tuple[str, str]:
    return f"{result['seconds']['plain']:,.0f} s", f"{result['seconds']['ours']:,.0f} s"


def ratio(value: float) -> str:
    return f"{value:.1f} ×" if value < 10 else f"{value:.0f} ×"


def main() -> None:
    encode = json.loads((HERE / "results" / "encode.json").read_text())
    machine = encode["machine"]
    lines = [
        f"Measured {encode['date']} on {machine['cores']} cores of an {machine['processor']} ({encode['precision']}).",
        "",
        "| ResNet50 | plain | headstart | ratio |",
        "|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows()),
    ]
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after)


if __name__ == "__main__":
    main()
