"""How the images of a global batch are shared out among processes, whose number need not divide it.

In: batches of as many images as a global batch has, as one process reads them from its own part of the training split;
all parts have the same number of images. Out: its share of each global batch, the same number of them for all
processes. Shares differ by one image at most, and go round, so that all parts last equally long.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor


def share_sizes(batch_size: int, num_workers: int) -> list[int]:
    """
    >>> share_sizes(64, 3)
    [21, 21, 22]
    """
    return [batch_size * (k + 1) // num_workers - batch_size * k // num_workers for k in range(num_workers)]


def deal(batches: Iterable[Mapping[str, Tensor]], sizes: list[int], rank: int) -> Iterator[Mapping[str, Tensor]]:
    """The shares of the process of that ``rank``, one a step. What is left at the end, and is no whole share for every
    process, is left out; unless it is all that there is."""
    is_first = True
    for batch in batches:
        num_images = len(next(iter(batch.values())))
        num_whole = min(_num_whole(num_images, sizes, each) for each in range(len(sizes)))
        start = 0
        for turn in range(num_whole):
            end = start + sizes[(rank + turn) % len(sizes)]
            yield {name: values[start:end] for name, values in batch.items()}
            start = end
        if is_first and not num_whole:
            yield batch
        is_first = False


def _num_whole(num_images: int, sizes: list[int], rank: int) -> int:
    """Shares for which so many images suffice, at most one round of them.

    >>> [_num_whole(42, [21, 21, 22], rank) for rank in range(3)]
    [2, 1, 1]
    """
    num = 0
    while num < len(sizes) and num_images >= (size := sizes[(rank + num) % len(sizes)]):
        num_images -= size
        num += 1
    return num
