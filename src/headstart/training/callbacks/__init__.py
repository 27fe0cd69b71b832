"""Lightning callbacks: checkpoints, early stopping, weight averaging, history, timing."""
