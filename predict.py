"""Predicts the classes of new images: python predict.py --help."""

from headstart.cli.main import PREDICT, start

if __name__ == "__main__":
    start(PREDICT)
