"""Trains or tests an image classifier: python train.py --help."""

from headstart.cli.train import run

if __name__ == "__main__":
    run()
