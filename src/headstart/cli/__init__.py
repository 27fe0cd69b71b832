"""The command line: overrides, resuming, errors in one sentence, clean-up of failed runs."""
