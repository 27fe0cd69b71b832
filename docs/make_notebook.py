"""Writes docs/quickstart.ipynb with its outputs: python docs/make_notebook.py."""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).parent
CELLS = [
    """# headstart in a notebook

On a hosted notebook, install headstart from its repository first: `%pip install "git+https://HOST/OWNER/headstart"`.
Everything below takes about a minute on two cores and needs no network. For your own images, write
`headstart.train(data="FOLDER")`.""",
    """import csv

import matplotlib.pyplot as plt
from PIL import Image

import headstart

plt.rcParams["figure.dpi"] = 60
run = headstart.train("experiment=quickstart", folder="quickstart")""",
    "## How did it train?",
    """epochs = [row["epoch"] for row in run.history]
for split in ("train", "valid"):
    plt.plot(epochs, [row[f"{split}/loss"] for row in run.history], label=split)
plt.xlabel("epoch")
plt.ylabel("loss")
plt.legend()
plt.show()
run.metrics""",
    "The report has much more: open `quickstart/report/index.html`.\n\n## The least certain test images",
    """with (run.folder / "test_predictions.csv").open() as file:
    rows = sorted(csv.DictReader(file), key=lambda row: float(row["probability"]))
figure, axes = plt.subplots(1, 4, figsize=(8, 2.4))
for row, axis in zip(rows[:4], axes, strict=True):
    axis.imshow(Image.open(f"data/shapes/{row['path']}"))
    axis.set_title(f"{row['prediction']}\\n{float(row['probability']):.0%}", size=8)
    axis.axis("off")
plt.show()""",
    "## Predict",
    """predictor = run.predictor()
for prediction in predictor.predict("data/shapes/test/dotted_star")[:3]:
    print(prediction.path.name, prediction.label, f"{prediction.probabilities[0]:.3f}", prediction.doubt)""",
    "## Features",
    """features = predictor.embed("data/shapes/test")
features.shape""",
    "## A sweep",
    """board = headstart.sweep("experiment=quickstart", lr=[1e-2, 1e-3], epochs=5, folder="sweep")
[(row["model.lr"], row["valid/loss"][:6]) for row in board.rows], board.summary["test"]""",
]


def main() -> None:
    cells = [new_markdown_cell(text) if text.startswith(("#", "The ")) else new_code_cell(text) for text in CELLS]
    notebook = new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})
    for number, cell in enumerate(notebook.cells):
        # Random ones would differ each time.
        cell.id = f"cell-{number}"
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder}}).execute()
        for cell in notebook.cells:
            cell.metadata.clear()
            if cell.cell_type == "code":
                # What training prints is long, and names folders of this machine.
                prints = "print(" in cell.source
                cell.outputs = [of for of in cell.outputs if of.output_type != "stream" or prints]
                cell.outputs = [of for of in cell.outputs if of.output_type == "stream" or "text/plain" in of.data]
    nbformat.write(notebook, HERE / "quickstart.ipynb")


if __name__ == "__main__":
    main()
