"""Transfer learning on a folder of images: a new head on a frozen, pre-trained backbone."""

import os

# Before torch is imported: while they wait for each other, OpenMP's threads would spin, and on a machine that other
# programs use too, the thread they wait for may not be running.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
