"""Trains or tests an image classifier: python train.py --help."""

from headstart.cli.main import TRAIN, start

if __name__ == "__main__":
    start(TRAIN)
