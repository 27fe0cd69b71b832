"""task=compare: which of several backbones has the best features for a dataset."""
