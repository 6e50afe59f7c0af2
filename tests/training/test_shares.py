"""Every step has the global batch, whatever the number of processes, and no image is dealt out twice."""

from __future__ import annotations

import pytest
import torch

from agescale.training import shares


def dealt(num_local: int, batch_size: int, num_workers: int) -> list[list[torch.Tensor]]:
    """Indices of images, by process and step."""
    sizes = shares.share_sizes(batch_size, num_workers)
    images = torch.arange(num_workers * num_local).reshape(num_workers, num_local)
    return [
        [share["index"] for share in shares.deal(({"index": each} for each in part.split(batch_size)), sizes, rank)]
        for rank, part in enumerate(images)
    ]


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("batch_size", [8, 13, 64])
def test_a_step_has_a_global_batch_and_all_processes_take_the_same_steps(num_workers: int, batch_size: int) -> None:
    for num_local in range(batch_size // num_workers + 1, 4 * batch_size):
        parts = dealt(num_local, batch_size, num_workers)
        steps = list(zip(*parts, strict=True))
        assert steps
        for step in steps:
            assert sum(map(len, step)) == batch_size
            assert max(map(len, step)) - min(map(len, step)) <= 1
        taken = torch.cat([share for part in parts for share in part])
        assert len(taken.unique()) == len(taken)
        assert num_workers * num_local - len(taken) < batch_size + num_workers, "images are left over"


def test_fewer_images_than_a_share_are_one_step() -> None:
    assert [[share.tolist() for share in part] for part in dealt(3, 64, 2)] == [[[0, 1, 2]], [[3, 4, 5]]]
