"""How much longer a first training takes if its images are in object storage: a server on this machine, 20 ms away.

python benchmarks/remote.py WEIGHTS: MobileNetV2's weights. 2,000 JPEG files of 50 kB are drawn; both trainings start
without a cache. Needs s3fs. The server runs on the same cores.
"""

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

import numpy as np
from common import save
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
COUNT, CLASSES, SIDE, LATENCY, PAGE = 2000, 10, 352, 0.02, 1000


def draw(folder: Path) -> None:
    """Draws noise, which takes 50 kB as a photograph of this size does."""
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / str(number % CLASSES) / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = generator.integers(0, 256, (SIDE // 4, SIDE // 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path, quality=92)


def serve(folder: Path, address: "multiprocessing.Queue[str]") -> None:
    """Answers the two requests of S3 that reading needs: a page of a list, and an object."""
    from remote_servers import Answer, serving

    sizes = {f"photos/{path.relative_to(folder).as_posix()}": path.stat().st_size for path in folder.rglob("*.jpg")}

    def answer(method: str, path: str, headers: dict[str, str]) -> Answer:
        key, query = unquote(urlsplit(path).path).strip("/").partition("/")[2], parse_qs(urlsplit(path).query)
        if "list-type" not in query:
            return (
                (200, {"ETag": f'"{key}"'}, (folder / key.removeprefix("photos/")).read_bytes())
                if key in sizes
                else (404, {}, b"")
            )
        after = query.get("continuation-token", [""])[0]
        keys = [name for name in sorted(sizes) if name.startswith(query.get("prefix", [""])[0]) and name > after]
        page = keys[: min(PAGE, int(query.get("max-keys", [PAGE])[0]))]
        rows = "".join(
            f"<Contents><Key>{quote(name)}</Key><Size>{sizes[name]}</Size><ETag>{escape(name)}</ETag>"
            "<LastModified>2026-01-01T00:00:00Z</LastModified></Contents>"
            for name in page
        )
        more = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if len(page) < len(keys) else ""
        flag = f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated><KeyCount>{len(page)}</KeyCount>"
        return (
            200,
            {"Content-Type": "application/xml"},
            f"<ListBucketResult>{flag}{more}{rows}</ListBucketResult>".encode(),
        )

    with serving(answer) as server:
        server.latency = LATENCY
        address.put(server.url)
        time.sleep(10**6)


def seconds(root: str, weights: Path, url: str) -> float:
    """Trains once, without a cache."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {
            "HEADSTART_CACHE": f"{folder}/cache",
            "AWS_ENDPOINT_URL": url,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "key",
        }
        command = [sys.executable, str(ROOT / "train.py"), "data=folder", f"data.root={root}", "report=none"]
        command += ["model.arch=mobilenet_v2", f"model.weights={weights}", "trainer.max_epochs=5"]
        start = time.perf_counter()
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


def main(weights: Path, repeats: int) -> None:
    """Measures both, one after the other, and saves the medians and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.jpg")) / COUNT
        context = multiprocessing.get_context("spawn")
        address = context.Queue()
        server = context.Process(target=serve, args=(Path(folder), address), daemon=True)
        server.start()
        url = address.get()
        pairs = [(seconds(folder, weights, url), seconds("s3://bucket/photos", weights, url)) for _ in range(repeats)]
        server.terminate()
    local, remote = (float(np.median(column)) for column in zip(*pairs, strict=True))
    save(
        "remote",
        images=COUNT,
        bytes=size,
        latency=LATENCY,
        seconds={"local": local, "s3": remote},
        ratio=remote / local,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    main(options.weights.absolute(), options.repeats)
