"""Predicts the classes of new images: python predict.py --help."""

from headstart.cli.predict import run

if __name__ == "__main__":
    run()
