"""Makes the screenshots of report and review in README and docs with Chromium. Run it in the repository's folder.

The report's are of a run that still makes mistakes, the review's of images with wrong labels:
python train.py experiment=quickstart trainer.max_epochs=2 model.hidden_dim=16 hydra.run.dir=run
python docs/make_screenshots.py run
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

import headstart

HERE = Path(__file__).parent
WIDTH, HEIGHT, MARGIN = 1000, 3000, 16  # pixels
# The sections of the page to show, by the first and the next heading; "": from the top.
PARTS = {
    "report.jpg": ("", "<h2>Each class"),
    "report_mistakes.jpg": ("<h2>The most confident mistakes", "<h2>Are the labels"),
}


def screenshot(address: str, height: int = HEIGHT) -> Image.Image:
    """Returns what Chromium shows at `address`, without what is empty below it."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        options = [f"--window-size={WIDTH},{height}", f"--screenshot={shot}", "--virtual-time-budget=5000"]
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *options, address]
        subprocess.run(command, check=True, capture_output=True)
        with Image.open(shot) as opened:
            image = opened.convert("RGB")
    background = Image.new("RGB", image.size, image.getpixel((0, image.height - 1)))
    _, _, _, bottom = ImageChops.difference(image, background).getbbox() or (0, 0, 0, image.height)
    return image.crop((0, 0, WIDTH, min(image.height, bottom + MARGIN)))


def with_wrong_labels(folder: Path) -> Path:
    """Copies the images of the quickstart, and puts the first one of each class into the next."""
    shutil.copytree("data/shapes", folder)
    classes = sorted(path.name for path in (folder / "train").iterdir() if path.is_dir())
    for name, other in zip(classes, [*classes[1:], classes[0]], strict=True):
        image = min((folder / "train" / name).glob("*.jpg"))
        image.rename(folder / "train" / other / f"of_{name}.jpg")
    return folder


def main(run: Path) -> None:
    """Writes the screenshots into this folder."""
    page = (run / "report" / "index.html").read_text()
    top = page.index("<h1>")
    for name, (first, following) in PARTS.items():
        part = page[page.index(first) if first else top : page.index(following)]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "part.html"
            file.write_text(page[:top] + part)
            screenshot(file.as_uri()).save(HERE / name, quality=80)
    with tempfile.TemporaryDirectory() as folder:
        images = with_wrong_labels(Path(folder) / "shapes")
        reviewed = headstart.train("experiment=quickstart", "data=folder", data=images, folder=Path(folder) / "run")
        server = headstart.review(reviewed.folder)
        screenshot(server.address, 760).save(HERE / "review.jpg", quality=80)
        server.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
