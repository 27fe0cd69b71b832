"""Makes the screenshots of the report in README and docs, with Chromium, from a run that still makes mistakes.

python train.py experiment=quickstart trainer.max_epochs=2 model.hidden_dim=16 hydra.run.dir=run
python docs/make_screenshots.py run/report/index.html
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1000, 4200  # pixels
# The parts of the page to show, from top to bottom.
PARTS = {"report.jpg": (0, 1150), "report_mistakes.jpg": (2970, 3705)}


def main(page: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "page.png"
        size, target = f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}"
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size, target]
        subprocess.run([*command, page.resolve().as_uri()], check=True, capture_output=True)
        with Image.open(shot) as image:
            for name, (top, bottom) in PARTS.items():
                image.convert("RGB").crop((0, top, WIDTH, bottom)).save(HERE / name, quality=80)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
