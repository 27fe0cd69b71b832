"""What the network saw of an image, and beside it what speaks for its class."""

from PIL import Image
from torchvision.transforms.v2 import functional

from headstart.model.saliency import overlay
from headstart.predict.prediction import Prediction

GAP = 6  # pixels


def explain(prediction: Prediction) -> Image.Image:
    """What the network saw and, beside it, the same under its map."""
    seen, saliency = prediction.seen, prediction.saliency
    if seen is None or saliency is None:
        raise ValueError("predicted without explain")
    plain = functional.to_pil_image(seen)
    both = Image.new("RGB", (2 * plain.width + GAP, plain.height), "white")
    both.paste(plain, (0, 0))
    both.paste(overlay(seen, saliency), (plain.width + GAP, 0))
    return both
