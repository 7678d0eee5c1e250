"""What the fork server of ``test_kills`` imports: a run, after which all that PyTorch imports late is there."""

import torch

from tests.training.small_runs import run, training

torch.set_num_threads(1)  # threads do not survive a fork
run(training("training.epochs=1"))
