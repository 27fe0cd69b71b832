"""Sweeps: trials that run once, are recorded however they end, and are compared."""
