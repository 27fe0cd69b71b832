"""A page to try a classifier on: RUN=logs/… python gradio_app.py."""

import os

import gradio
import numpy as np

import headstart
from headstart.model.image_classifier import overlay

# The file as it is: Gradio's own conversion of 16-bit and transparent images differs from predict.py's.
FILE = gradio.Image(type="filepath", image_mode=None)
predictor = headstart.load(os.environ["RUN"])


def classify(image: str) -> tuple[dict[str, float], np.ndarray]:
    """The most probable classes, and what of the image speaks for the first one."""
    (found,) = predictor.predict(image, topk=5, explain=True)
    return dict(zip(found.classes, found.probabilities, strict=True)), np.asarray(overlay(found.seen, found.saliency))


demo = gradio.Interface(classify, FILE, [gradio.Label(), gradio.Image()])

if __name__ == "__main__":
    demo.launch()
