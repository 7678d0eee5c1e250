"""One cycle, beside PyTorch's own."""

import pytest
import torch

from henaw.training.schedule import one_cycle


@pytest.mark.parametrize("steps", [2, 3, 4, 7, 100, 1601])
def test_it_is_pytorchs_one_cycle(steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps, cycle_momentum=False)
    expected = []
    for _ in range(steps):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        if len(expected) < steps:
            schedule.step()
    assert [one_cycle(step, steps, 0.02) for step in range(steps)] == pytest.approx(expected, rel=1e-12)
