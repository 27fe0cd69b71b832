"""Fitting a classifier with Lightning."""
