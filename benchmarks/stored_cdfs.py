"""What it costs to store the distribution of ages as a list that SQL can index: python benchmarks/stored_cdfs.py

Writes the same 100,000 smooth random distributions as 202 bytes of fixed size, as agescale did in schema 1, and as a
list of 101 int32, and prints bytes a row and the time to write (zstd, as the tables are), the least of five.
"""

from __future__ import annotations

import io
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from agescale.ages import cdf

NUM_ROWS = 100_000


def main() -> None:
    generator = np.random.default_rng(0)
    ages_A = np.arange(cdf.NUM_AGES)
    mean_N1 = generator.uniform(0, 90, (NUM_ROWS, 1))
    probs_NA = np.exp(-0.5 * ((ages_A - mean_N1) / generator.uniform(2, 12, (NUM_ROWS, 1))) ** 2)
    cdf_NA = cdf.quantize(probs_NA * generator.uniform(0.8, 1.2, probs_NA.shape))
    offsets = pa.array(np.arange(NUM_ROWS + 1) * cdf.NUM_AGES, pa.int32())
    columns = {
        "202 bytes": pa.FixedSizeBinaryArray.from_buffers(pa.binary(202), NUM_ROWS, [None, pa.py_buffer(cdf_NA)]),
        "list<int32>": pa.ListArray.from_arrays(offsets, pa.array(cdf_NA.ravel().astype(np.int32))),
    }
    for name, column in columns.items():
        seconds, num_bytes = min(write(column) for _ in range(5))
        print(f"{name:12} {num_bytes / NUM_ROWS:6.1f} bytes a row, {1e6 * seconds / NUM_ROWS:5.2f} us a row")


def write(column: pa.Array) -> tuple[float, int]:
    buffer = io.BytesIO()
    started = time.perf_counter()
    pq.write_table(pa.table({"age_cdf": column}), buffer, compression="zstd")
    return time.perf_counter() - started, len(buffer.getvalue())


if __name__ == "__main__":
    main()
