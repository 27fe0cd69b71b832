"""The demo: a page, and an address for programs, that takes an image and answers with its classes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from torchvision.transforms.v2.functional import to_pil_image

from headstart.config.train import check_train, read_record
from headstart.data.manifest import Manifest
from headstart.data.preprocessing import Array
from headstart.errors import HeadstartError
from headstart.evaluation.probes import unit_rows
from headstart.log import log
from headstart.model.image_classifier import overlay
from headstart.predict.embed import stored_of_run
from headstart.predict.predictor import Predictor, load_predictor
from headstart.predict.write import as_json
from headstart.report.style import image_uri
from headstart.reviewing.local import SIDE, LocalServer, as_jpeg, body_of, is_foreign, page
from headstart.run_folder import checkpoint_file, run_folder_of

# The largest upload, how long a request may take, how many training images are shown, and classes unless it is asked.
MOST_BYTES, SECONDS, NEAREST, TOPK = 50_000_000, 60, 6, 3


@dataclass(frozen=True)
class TrainingImages:
    """The images of a run's train split whose features are stored: `directions` (N, d), which have unit length."""

    manifest: Manifest
    paths: list[str]
    labels: list[str]
    directions: Array

    def image(self, index: int) -> Image.Image | None:
        """Returns an image; None: there is none of this number, or it has changed, or is gone."""
        return self.manifest.read(self.paths[index], self.manifest.depth) if index < len(self.paths) else None

    def nearest(self, features: Array) -> list[dict[str, Any]]:
        """Returns the images whose features have the largest cosine similarity to `features` (d), the first first."""
        similarity = self.directions @ (features / max(float(np.linalg.norm(features)), 1e-12))
        return [
            {
                "image": f"images/{index}",
                "label": self.labels[index],
                "path": self.paths[index].encode("utf-8", "replace").decode(),
                "similarity": round(float(similarity[index]), 4),
            }
            for index in np.argsort(-similarity, kind="stable")[:NEAREST].tolist()
        ]


def training_images(predictor: Predictor, checkpoint: Path) -> TrainingImages:
    """Returns the images that the predictor's best classifier was trained on.

    Raises:
        HeadstartError: they are not known, or no features of them are stored.
    """
    classifier, run = predictor.classifier, run_folder_of(checkpoint)
    if classifier.recipe.finetune.first_epoch is not None:
        raise HeadstartError("the backbone was fine-tuned, so its features are not stored")
    if not run.config.is_file():
        raise HeadstartError("the checkpoint is not in the folder of its run")
    manifest, known = stored_of_run(classifier, check_train(read_record(run)))
    split = manifest.splits["train"]
    rows = [row for row, content in enumerate(split.contents) if content in known]
    if not rows:
        raise HeadstartError("no features of them are stored")
    features = np.stack([np.asarray(known[split.contents[row]], np.float32) for row in rows])
    labels = [manifest.classes[split.labels[row]] for row in rows]
    return TrainingImages(manifest, [split.paths[row] for row in rows], labels, unit_rows(features))


class Demo:
    """Predicts images, explains it, and finds training images like them.

    Args:
        training: the training images; or why they are left out.
    """

    def __init__(self, predictor: Predictor, training: TrainingImages | str) -> None:
        self._predictor, self._training = predictor, training

    def state(self) -> dict[str, Any]:
        """Returns what the page knows before there is an image."""
        reason = self._training if isinstance(self._training, str) else ""
        return {"classes": len(self._predictor.classes), "no_training_images": reason, "most_bytes": MOST_BYTES}

    def predict(self, content: bytes, *, topk: int, min_confidence: float, explain: bool) -> dict[str, Any]:
        """Returns what predictions.jsonl would say of an image file with this content, without a path.

        With `explain`, adds what the network saw, the same under its saliency map, and the nearest training images.
        """
        predict = self._predictor.predict
        (prediction,) = predict(content, topk=topk, min_confidence=min_confidence, explain=explain)
        answer = as_json(prediction) | {"path": None}
        if prediction.error is not None:
            # Otherwise it begins with the number of the image.
            return answer | {"error": prediction.error.replace("image 0", "the file", 1)}
        if prediction.seen is not None and prediction.saliency is not None:
            answer["seen"] = image_uri(to_pil_image(prediction.seen), SIDE)
            answer["explanation"] = image_uri(overlay(prediction.seen, prediction.saliency), SIDE)
            answer["nearest"] = self._nearest(content)
        return answer

    def image(self, index: int) -> Image.Image | None:
        """Returns a training image; None: there is none of this number, or it has changed, or is gone."""
        return None if isinstance(self._training, str) else self._training.image(index)

    def _nearest(self, content: bytes) -> list[dict[str, Any]]:
        if isinstance(self._training, str):
            return []
        return self._training.nearest(self._predictor.embed(content)[0])


class DemoServer(LocalServer):
    """Serves a demo."""

    def __init__(self, demo: Demo) -> None:
        super().__init__("demo", _routes(demo))


def demo_of(checkpoint: Path, **options: Any) -> Demo:
    """Returns the demo of a checkpoint, or of what is in the folder of a run, a sweep or an ensemble.

    Args:
        options: as of headstart.predict.predictor.load_predictor.

    Raises:
        HeadstartError: as `load_predictor`.
    """
    path = checkpoint_file(checkpoint.expanduser(), "best")
    predictor = load_predictor(path, **options)
    training: TrainingImages | str
    try:
        training = training_images(predictor, path)
    except (HeadstartError, OSError) as reason:
        training = str(reason)
        log.info("without the nearest training images: %s", training)
    return Demo(predictor, training)


def _routes(demo: Demo) -> list[Route]:
    # One prediction at a time; the page and its images are answered meanwhile.
    turns = ThreadPoolExecutor(1)

    def show(request: Request) -> Response:
        return page(request, "demo.html.jinja", state=demo.state())

    def image(request: Request) -> Response:
        return as_jpeg(demo.image(int(request.path_params["index"])))

    async def predict(request: Request) -> Response:
        if is_foreign(request):
            return JSONResponse({"error": "this page is not the demo's"}, 403)
        try:
            options = _options(request.query_params)
        except ValueError:
            sentence = "topk must be a positive integer, min_confidence from 0 to 1, and explain true or false"
            return JSONResponse({"error": sentence}, 400)
        try:
            async with asyncio.timeout(SECONDS):
                content = await body_of(request, MOST_BYTES)
                if content is None:
                    return JSONResponse({"error": f"the file has more than {MOST_BYTES / 1e6:g} MB"}, 413)
                answer = await asyncio.wrap_future(turns.submit(demo.predict, content, **options))
        except TimeoutError:
            return JSONResponse({"error": f"it took more than {SECONDS} seconds"}, 504)
        return JSONResponse(answer, 200 if answer["error"] is None else 422)

    return [
        Route("/", show),
        Route("/images/{index:int}", image),
        Route("/predict", predict, methods=["POST"]),
    ]


def _options(given: QueryParams) -> dict[str, Any]:
    """Returns the options of a prediction, by the names that they have in predict.py.

    Raises:
        ValueError: one of them is invalid.
    """
    topk, confidence = int(given.get("topk", TOPK)), float(given.get("min_confidence", 0))
    explain = {"true": True, "false": False}.get(given.get("explain", "false"))
    if topk < 1 or not 0 <= confidence <= 1 or explain is None:
        raise ValueError
    return {"topk": topk, "min_confidence": confidence, "explain": explain}
