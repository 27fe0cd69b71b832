"""The local page on which labels are reviewed."""
