"""Datasets that headstart downloads or generates."""
