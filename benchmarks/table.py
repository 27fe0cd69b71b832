"""Writes the tables of figures in docs/performance.md and, shorter, in README.md from results/*.json.

python benchmarks/table.py
"""

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
SCALE_STEPS = {"data": "find and inspect", "fit": "encode and train", "test": "test", "report": "report"}
SCALE_STEPS |= {"predict": "predict, a process of its own"}
SCALE_MEMORY = {"training": "memory of training", "training_own": "… without mapped files"}
SCALE_MEMORY |= {"prediction": "memory of prediction", "prediction_own": "… without mapped files"}
Row = tuple[str, str, str, str]
RESULTS = HERE / "results"
# Measured earlier, on a CPU with bf16 instructions; results/ are of one without, but for the first result.
WITH_BF16 = RESULTS / "bf16"
WITH_GPU = RESULTS / "gpu"


def rows(results: Path) -> list[Row]:
    """What was measured, the baseline's figure, headstart's, and their ratio."""
    encode, sweep, predict = (load(name, results) for name in ("encode", "sweep", "predict_1000"))
    rate = encode["images_per_second"]
    fast = f"{rate['ours']:.1f}"
    return [
        ("encoding, images/s from JPEG", f"{rate['plain']:.1f}", fast, ratio(encode["ratio_to_plain"])),
        ("… compared with the tuned baseline", f"{rate['tuned']:.1f}", fast, ratio(encode["ratio_to_tuned"])),
        (f"sweep of {sweep['trials']} trials, nothing cached", *in_seconds(sweep), ratio(sweep["ratio"])),
        *warm_sweep(sweep),
        ("prediction, 1,000 images", *in_seconds(predict), ratio(predict["ratio"])),
        *many_predictions(results),
        ("encoding, fraction of the peak matmul throughput", "", "", f"{encode['fraction_of_matrix_rate']:.0%}"),
        *fractions_of_limits(sweep),
    ]


def many_predictions(results: Path) -> list[Row]:
    """Empty where they were not measured."""
    if not (results / "predict_many.json").exists():
        return []
    many = load("predict_many", results)
    name = f"prediction, {many['images']:,} images with MobileNetV2, compared with its encoder's rate"
    rates = (f"{many['images_per_second'][of]:.0f} images/s" for of in ("encoder", "predict"))
    return [(name, *rates, f"{many['fraction']:.2f} ×")]


def fractions_of_limits(sweep: dict[str, Any]) -> list[Row]:
    """Those that were measured."""
    found = {
        "sweep, fraction of the limit": sweep.get("fraction_of_limit"),
        "sweep, features cached, fraction of the limit": sweep.get("warm_fraction_of_limit"),
    }
    return [(name, "", "", f"{value:.0%}") for name, value in found.items() if value is not None]


def warm_sweep(sweep: dict[str, Any]) -> list[Row]:
    """Empty where it was not measured."""
    if "warm_ratio" not in sweep:
        return []
    plain, warm = sweep["seconds"]["plain"], sweep["seconds"]["warm"]
    return [("… features cached", f"{plain:,.0f} s", f"{warm:.0f} s", ratio(sweep["warm_ratio"]))]


def load(name: str, results: Path = RESULTS) -> Any:
    return json.loads((results / f"{name}.json").read_text())


def in_seconds(result: dict[str, Any]) -> tuple[str, str]:
    return f"{result['seconds']['plain']:,.0f} s", f"{result['seconds']['ours']:,.0f} s"


def ratio(value: float) -> str:
    return f"{value:.1f} ×" if value < 10 else f"{value:.0f} ×"


def table(shown: list[Row]) -> str:
    """The rows, with the ratios that were measured earlier on a CPU with bf16."""
    now, before = load("encode"), load("encode", WITH_BF16)
    earlier = {name: value for name, *_, value in rows(WITH_BF16)}
    lines = [
        f"Measured on {now['date']} on {cores(now)} without bf16 instructions (32-bit, {gigaflops(now)}), the sweep",
        f"and many predictions on {load('sweep')['date']}. The last column was measured with an earlier version, which",
        f"had a new view in every epoch, on {before['date']} on {cores(before)} with them (bf16, {gigaflops(before)}).",
        "",
        "| ResNet50 | baseline | headstart | ratio | ratio, bf16 |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} | {earlier.get(row[0], '')} |" for row in shown),
    ]
    return "\n".join(lines) + "\n"


def cores(result: dict[str, Any]) -> str:
    return f"{result['machine']['cores']} cores of an {result['machine']['cpu']}"


def gigaflops(encode: dict[str, Any]) -> str:
    """Returns the peak matmul throughput as text."""
    return f"{encode['matrix_rate'] / 1e9:.0f} GFLOP/s"


def busy_table() -> str:
    """How much longer runs take beside other programs; a fair share of the cores would be 2 × and 3 ×."""
    busy = load("busy")
    seconds, ratios = busy["seconds"]["0"], busy["ratios"]
    lines = [
        f"Measured on {busy['date']} on {busy['machine']['cores']} cores of an {busy['machine']['cpu']}.",
        "",
        "| | idle | beside one program | beside two |",
        "|---|---|---|---|",
        *(
            f"| {name} | {value:.0f} s | {ratio(ratios['beside 1'][name])} | {ratio(ratios['beside 2'][name])} |"
            for name, value in seconds.items()
        ),
        "| a fair share of the cores | | 2 × | 3 × |",
    ]
    return "\n".join(lines) + "\n"


def gpu_table() -> str:
    """What a GPU makes of the recipe."""
    gpu, sweep, predict, one = (load(name, WITH_GPU) for name in ("gpu", "sweep", "predict_1000", "predict_one"))
    rates, seconds = gpu["images_per_second"], gpu["seconds"]
    lines = [
        f"Measured on {gpu['date']} on an {gpu['gpu']} and {gpu['machine']['cores']} CPU cores "
        f"({gpu['precision']}, {gpu['workers']} workers), with",
        f"{gpu['train_images']:,} training images of 500 × 375 pixels; sweeps and predictions with the images of the "
        "table above.",
        "",
        "| ResNet50 | baseline | headstart |",
        "|---|---|---|",
        f"| the GPU alone encodes | | {rates['encode']:,.0f} images/s |",
        f"| the workers alone decode and augment | | {rates['decode and augment']:,.0f} images/s |",
        f"| both together: a view, stored | {rates['plain']:,.0f} images/s; tuned {rates['plain, tuned']:,.0f} "
        f"| {rates['view']:,.0f} images/s |",
        f"| first run, 20 epochs | {seconds['plain']:.0f} s | {seconds['cold']:.0f} s |",
        f"| the same run again, features cached | {seconds['plain']:.0f} s | {seconds['warm']:.0f} s |",
        f"| sweep of {sweep['trials']} trials, nothing cached | {' | '.join(in_seconds(sweep))} |",
        f"| … features cached | {sweep['seconds']['plain']:,.0f} s | {sweep['seconds']['warm']:.0f} s |",
        f"| prediction, 1,000 images | {' | '.join(in_seconds(predict))} |",
        f"| … one image; baseline: importing torch and torchvision | {one['seconds']['imports']:.1f} s "
        f"| {one['seconds']['ours']:.1f} s |",
    ]
    return "\n".join(lines) + "\n"


def one_text() -> str:
    """What starting the program costs."""
    found = load("predict_one")
    seconds = found["seconds"]
    return (
        f"Predicting a single image takes {seconds['ours']:.1f} s from start to end, {found['ratio']:.2f} times as "
        f"long as importing torch and torchvision\n({seconds['imports']:.1f} s; {found['date']}, {cores(found)}).\n"
    )


def memory_text() -> str:
    """The peak memory of runs."""
    found = load("memory")
    first, few, many = (f"{value / 1e3:.2f} GB" for value in found["peak_megabytes"].values())
    return (
        f"The first run of the table takes at most {first}, all processes together; with 50 training images, 20 views\n"
        f"take {few} and 200 views {many} ({found['date']}, {cores(found)}).\n"
    )


def compiled_table() -> str:
    """What compiling a backbone costs once, and what it gains."""
    found = load("compiled")
    lines = [
        f"Measured on {found['date']} on {cores(found)}.",
        "",
        "| | compiled once in | loaded later in | images/s compiled | uncompiled |",
        "|---|---|---|---|---|",
    ]
    for arch, values in found.items():
        if arch in ("date", "machine"):
            continue
        seconds, rates = values["seconds"], values["images_per_second"]
        times = f"{seconds['compile']:.0f} s | {seconds['load']:.1f} s"
        lines.append(f"| {arch} | {times} | {rates['compiled']:.1f} | {rates['uncompiled']:.1f} |")
    return "\n".join(lines) + "\n"


def scale_table() -> str:
    """Seconds of each step for folders of several sizes, and what ImageNet would take."""
    found = load("scale")
    counts = list(found["measured"])
    lines = [
        f"Measured on {found['date']} on {cores(found)}.",
        "",
        f"| images | {' | '.join(f'{int(count):,}' for count in counts)} | 1,281,167, extrapolated |",
        f"|---|{'---|' * (len(counts) + 1)}",
    ]
    for step, name in SCALE_STEPS.items():
        times = [f"{found['measured'][count][step]:.1f} s" for count in counts]
        lines.append(f"| {name} | {' | '.join(times)} | {found['minutes_for_imagenet'][step]:.0f} min |")
    for part, name in SCALE_MEMORY.items():
        sizes = [f"{found['measured'][count][f'{part}_megabytes'] / 1e3:.2f} GB" for count in counts]
        lines.append(f"| {name} | {' | '.join(sizes)} | |")
    compared = found["near_duplicates"]
    lines += [
        "",
        f"Looking for near duplicates compares all images with one another: {compared['seconds']:.0f} s for "
        f"{compared['images']:,} images with",
        "ResNet50's features, and four times as long for twice as many.",
    ]
    return "\n".join(lines) + "\n"


def trials_text() -> str:
    """What a trial costs."""
    found = load("trials")
    memory, rates, seconds = found["resident_megabytes"], found["trials_per_second"], found["seconds"]
    return (
        f"Measured on {found['date']} on {cores(found)}, MobileNetV2, 20 epochs of 500 images: a trial takes\n"
        f"{seconds['median']:.2f} s, of which its steps alone take {seconds['steps by themselves']:.2f} s in a plain "
        f"loop; after 10 trials the process\nholds {memory['after 10']:.0f} MB, after {found['trials']} "
        f"{memory['after 100']:.0f} MB; two at once (joblib) give {rates['ratio']:.2f} times the trials per second.\n"
    )


HEADS = ("mlp", "linear", "logistic", "ridge", "knn", "mean", "auto")
# Heads of the tables on whether answers come true.
FORECASTS = ("situations", "coverage of the 90 % interval", "its width", "bias", "mean error", 'of "no change"')
LABELS = ("listed of clean ones", "5 % swapped", "estimate", "listed", "precision", "recall", "in the first tenth")
UNUSUAL = {
    "ordinary": "new images of the same classes",
    "near found": "of other classes",
    "near AUROC": "AUROC",
    "far found": "of another set",
    "far AUROC": "AUROC",
}


def truth_tables() -> str:
    """Whether the report's answers come true: one table per answer, one row per set of images."""
    found = load("truth")
    sets = {f"{name}, {of['classes']} classes": of for name, of in found["sets"].items()}
    accuracies = [[of["heads"]["accuracy"][kind] for kind in HEADS] for of in sets.values()]
    changes = [of["heads"]["log_loss_by_temperature"] for of in sets.values()]
    means = [sum(column) / len(sets) for column in zip(*accuracies, strict=True)]
    heads = {
        name: [*map(decimal, of), f"{change:+.4f}"] for name, of, change in zip(sets, accuracies, changes, strict=True)
    }
    heads["mean"] = [*map(decimal, means), f"{sum(changes) / len(sets):+.4f}"]
    tables = (
        grid("twice the images", FORECASTS, {name: forecast_row(of["forecasts"]) for name, of in sets.items()}),
        grid("wrong labels", LABELS, {name: labels_row(of["label_issues"]) for name, of in sets.items()}),
        grid("test accuracy by `model.head`", (*HEADS, "log-loss by the temperature"), heads),
        grid("unusual", tuple(UNUSUAL.values()), {name: unusual_row(of["unusual"]) for name, of in sets.items()}),
    )
    return "\n\n".join((f"Measured on {found['date']} with MobileNetV2's features.", *tables)) + "\n"


def grid(first: str, others: tuple[str, ...], cells: dict[str, list[str]]) -> str:
    """Returns a table with a row of cells per name."""
    lines = [f"| {first} | {' | '.join(others)} |", f"|---|{'---|' * len(others)}"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(row)} |" for name, row in cells.items())])


def forecast_row(found: dict[str, Any]) -> list[str]:
    value, low, high = found["coverage"]
    coverage = f"{value:.0%} ({low:.0%} to {high:.0%})"
    errors = decimal(found["error"]), decimal(found["error of no change"])
    return [str(found["situations"]), coverage, decimal(found["width"]), f"{found['bias']:+.3f}", *errors]


def labels_row(found: dict[str, Any]) -> list[str]:
    """Returns how many labels headstart lists and, in brackets, cleanlab."""
    clean, some = found["0% swapped"], found["5% swapped"]
    counts = [f"{of['listed']:.0f} ({of['cleanlab listed']:.0f})" for of in (clean, some)]
    shares = [f"{some[key]:.2f} ({some[f'cleanlab {key}']:.2f})" for key in ("precision", "recall")]
    middle = [f"{some[key]:.0f}" for key in ("swapped", "estimate")]
    return [counts[0], *middle, counts[1], *shares, f"{some['in the first tenth']:.0%}"]


# What is timed until the first result, and how it is called in a table.
FIRST = {
    "plain": "the tutorial's loop",
    "tuned": "the same, tuned",
    "expert": "an expert's script",
    "cold": "headstart, first run",
    "cold again": "… of other images with the same backbone",
    "cold again, no report": "headstart, first run, without the report",
    "warm": "headstart, features cached",
    "warm, no report": "headstart, features cached, without the report",
    "imports": "importing torch, torchvision and pytorch_lightning",
}


def first_table() -> str:
    """The time from the command to the tested model and its report, and how many times as long the others take."""
    found = load("cold_and_warm_run")
    seconds, every = found["seconds"], found["seconds_of_a_view_per_epoch"]
    cells = {
        FIRST[key]: [
            f"{seconds[key]:.1f} s",
            f"{seconds['plain'] / seconds[key]:.1f} ×",
            f"{every[key]:.1f} s" if key in every else "",
        ]
        for key in FIRST
    }
    intro = f"Measured on {found['date']} on {cores(found)} ({found['precision']}, {gigaflops(found)}).\n\n"
    return intro + grid("until the tested model", ("", "the loop takes", "`features.views=null`"), cells) + "\n"


def limit_text() -> str:
    """How much of a first run with a new view in every epoch are its forward passes at the peak throughput."""
    found = load("cold_and_warm_run")
    whole, without = (f"{found[key]:.0%}" for key in ("fraction_of_limit", "fraction_of_limit_without_report"))
    return f"With `features.views=null`, the first run above has {whole} of this limit, {without} without report.\n"


def views_table() -> str:
    """The best valid loss, and the test accuracy, by the number of views."""
    found = load("views")
    kinds = list(next(iter(found["sets"].values())))
    cells = {
        name: [" / ".join(decimal(of[kind][key][0]) for key in ("valid/loss", "test/acc")) for kind in kinds]
        for name, of in found["sets"].items()
    }
    return grid("views", tuple(kinds), cells) + "\n"


# Heads of the table on images chosen to be labelled next.
LABELLED = ("wins", "mean gain", "lowest mean gain of a round", "accuracy at first", "chosen", "random", "labels saved")


def labelling_table() -> str:
    """How much more images that task=label chooses teach than random ones."""
    found = load("active_learning")
    cells = {}
    for name, of in found["sets"].items():
        ours, random = of["accuracy"]["chosen"], of["accuracy"]["random"]
        gains = [f"{of[key]:+.3f}" for key in ("area", "worst_round")]
        last = [decimal(value) for value in (ours[0], ours[-1], random[-1])]
        saved = f"{of['images_saved']} of {found['rounds'] * found['count']}"
        cells[name] = [f"{of['wins']} of {found['seeds']}", *gains, *last, saved]
    return f"Measured on {found['date']}.\n\n{grid('accuracy', LABELLED, cells)}\n"


def unusual_row(found: dict[str, Any]) -> list[str]:
    known = {key: decimal(value) if "AUROC" in key else f"{value:.1%}" for key, value in found.items()}
    return [known.get(key, "") for key in UNUSUAL]


def decimal(value: float) -> str:
    return f"{value:.3f}"


def replace_between(path: Path, name: str, text: str) -> None:
    """Replaces what is between the markers of `name` in `path`."""
    begin, end = f"<!-- {name}: written by benchmarks/table.py -->\n", f"<!-- end of {name} -->"
    before, found_begin, rest = path.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise SystemExit(f"error: {path} lacks the markers {begin.strip()} and {end}")
    path.write_text(before + begin + text + end + after)


def named_backbones_table() -> str:
    """The backbones of conf/model, with the sentence at the top of each file."""
    result = load("named_backbones")
    lines = [f"Measured on {result['date']} on a core of an {result['machine']['cpu']}.", ""]
    lines += ["| `model=` | | image size | features | rate |", "|---|---|---|---|---|"]
    for name, row in sorted(result["backbones"].items(), key=lambda item: -item[1]["rate"]):
        comments = [line for line in (ROOT / "conf" / "model" / f"{name}.yaml").read_text().splitlines() if line]
        says = next(line.removeprefix("# ") for line in comments if not line.startswith("# @")).rstrip(".")
        lines.append(f"| `{name}` | {says} | {row['image_size']} | {row['width']} | {row['rate']:.2g} × |")
    return "\n".join([*lines, ""])


def main() -> None:
    performance, readme, sweeps = ROOT / "docs" / "performance.md", ROOT / "README.md", ROOT / "docs" / "sweeps.md"
    replace_between(readme, "first", first_table())
    replace_between(performance, "figures", table(rows(RESULTS)))
    replace_between(performance, "first", first_table())
    replace_between(performance, "limit", limit_text())
    replace_between(performance, "views", views_table())
    replace_between(performance, "busy", busy_table())
    replace_between(performance, "gpu", gpu_table())
    replace_between(performance, "one", one_text())
    replace_between(performance, "memory", memory_text())
    replace_between(performance, "compiled", compiled_table())
    replace_between(performance, "scale", scale_table())
    replace_between(sweeps, "trials", trials_text())
    replace_between(ROOT / "docs" / "backbones.md", "named", named_backbones_table())
    replace_between(ROOT / "docs" / "report.md", "truth", truth_tables())
    replace_between(ROOT / "docs" / "labelling.md", "labelling", labelling_table())


if __name__ == "__main__":
    main()
