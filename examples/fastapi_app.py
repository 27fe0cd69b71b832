"""Predictions over HTTP: RUN=logs/… uvicorn fastapi_app:app, then curl -F file=@photo.jpg localhost:8000/predict."""

import io
import os
from typing import Any

from fastapi import FastAPI, HTTPException, UploadFile
from PIL import Image, UnidentifiedImageError

import headstart

app = FastAPI()
predictor = headstart.load(os.environ["RUN"])


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, Any]:
    """The three most probable classes of an image. FastAPI calls it in threads, which may share a predictor."""
    try:
        # As it is: the predictor converts images as predict.py does, 16-bit and transparent ones too.
        image = Image.open(io.BytesIO(file.file.read()))
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise HTTPException(422, "not an image") from None
    (found,) = predictor.predict(image)
    if found.error is not None:
        raise HTTPException(422, found.error)
    return {"classes": dict(zip(found.classes, found.probabilities, strict=True)), "doubt": found.doubt}
