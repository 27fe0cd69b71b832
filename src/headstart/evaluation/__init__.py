"""Predictions of a whole split, and what is computed from them."""
