"""The command line: overrides, resuming, errors in one sentence, clean-up of failed runs."""

# First of all, because it tells the time.
import headstart.machine  # noqa: F401
