"""The command line: one click group, thin commands that check and then make one library call."""

import os

# OpenMP's threads wait for each other in every operation, by default awake. Beside another busy process each such wait
# lasts until the scheduler steps in, and a training takes some thirty times as long; asleep they lose nothing that can
# be measured. Read when torch is loaded, and inherited by workers.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
