"""What people's own tools read of a table by the name of its folder: ``python tests/readers.py READER FOLDER``.

Prints, as JSON, the number of rows, the names of all columns, and, of predictions, the answer to one question: which
photos are of somebody under 18 with a probability of a half or more? Needs the reader alone, nothing of agescale.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

Answer = tuple[int, list[str], list[str] | None]


def with_pandas(folder: str) -> Answer:
    import pandas as pd

    rows = pd.read_parquet(folder)
    if "age_cdf" not in rows:
        return len(rows), list(rows), None
    is_minor = rows["age_cdf"].str[18] / 65535 >= 0.5
    return len(rows), list(rows), rows["uri"][is_minor].tolist()


def with_pyarrow(folder: str) -> Answer:
    import pyarrow.compute as pc
    import pyarrow.dataset as pads
    import pyarrow.parquet as pq

    if folder.startswith("s3://"):
        from pyarrow.fs import S3FileSystem

        files = S3FileSystem(endpoint_override=os.environ["AWS_ENDPOINT_URL"])
        rows = pads.dataset(folder.removeprefix("s3://"), filesystem=files).to_table()
    else:
        rows = pads.dataset(folder).to_table()
        assert rows.equals(pq.read_table(folder))
    if "age_cdf" not in rows.column_names:
        return len(rows), rows.column_names, None
    scored = rows.filter(pc.is_valid(rows["age_cdf"]))
    is_minor = pc.greater_equal(pc.divide(pc.cast(pc.list_element(scored["age_cdf"], 18), "double"), 65535), 0.5)
    return len(rows), rows.column_names, scored["uri"].filter(is_minor).to_pylist()


def with_polars(folder: str) -> Answer:
    import polars as pl

    rows = pl.read_parquet(f"{folder}/")  # on S3 it takes a name without the slash for that of a file
    if "age_cdf" not in rows.columns:
        return len(rows), rows.columns, None
    minors = rows.filter(pl.col("age_cdf").list.get(18) / 65535 >= 0.5)
    return len(rows), rows.columns, minors["uri"].to_list()


def with_duckdb(folder: str) -> Answer:
    import duckdb

    rows = duckdb.sql(f"SELECT * FROM '{folder}/*.parquet'")
    if "age_cdf" not in rows.columns:
        return len(rows), rows.columns, None
    minors = duckdb.sql(f"SELECT uri FROM '{folder}/*.parquet' WHERE age_cdf[19] / 65535 >= 0.5").fetchall()
    return len(rows), rows.columns, [uri for (uri,) in minors]


def with_datafusion(folder: str) -> Answer:
    from datafusion import SessionContext
    from datafusion.object_store import AmazonS3

    context = SessionContext()
    if folder.startswith("s3://"):
        bucket = folder.removeprefix("s3://").partition("/")[0]
        store = AmazonS3(
            bucket_name=bucket,
            region="us-east-1",
            endpoint=os.environ["AWS_ENDPOINT_URL"],
            access_key_id=os.environ["AWS_ACCESS_KEY_ID"],
            secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
            allow_http=True,
        )
        context.register_object_store("s3://", store, bucket)
    context.register_parquet("people", f"{folder}/")
    rows = context.sql("SELECT * FROM people").to_arrow_table()
    if "age_cdf" not in rows.column_names:
        return len(rows), rows.column_names, None
    minors = context.sql("SELECT uri FROM people WHERE age_cdf[19] / 65535.0 >= 0.5").to_pydict()
    return len(rows), rows.column_names, minors["uri"]


def with_chdb(folder: str) -> Answer:
    import chdb

    table = f"file('{folder}/*.parquet', Parquet)"
    if folder.startswith("s3://"):
        url = folder.replace("s3://", f"{os.environ['AWS_ENDPOINT_URL']}/")
        keys = [os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
        table = f"s3('{url}/*.parquet', '{keys[0]}', '{keys[1]}', 'Parquet')"
    rows = json.loads(str(chdb.query(f"SELECT * FROM {table}", "JSON")))
    columns = [column["name"] for column in rows["meta"]]
    if "age_cdf" not in columns:
        return len(rows["data"]), columns, None
    asked = f"SELECT uri FROM {table} WHERE length(age_cdf) = 101 AND age_cdf[19] / 65535 >= 0.5"  # null is []
    minors = json.loads(str(chdb.query(asked, "JSON")))
    return len(rows["data"]), columns, [row["uri"] for row in minors["data"]]


def with_daft(folder: str) -> Answer:
    import daft

    config = None
    if folder.startswith("s3://"):
        from daft.io import IOConfig, S3Config

        config = IOConfig(s3=S3Config(endpoint_url=os.environ["AWS_ENDPOINT_URL"], region_name="us-east-1"))
    rows = daft.read_parquet(folder, io_config=config)
    columns, num_rows = rows.column_names, rows.count_rows()
    if "age_cdf" not in columns:
        return num_rows, columns, None
    minors = rows.where(daft.col("age_cdf").get(18) / 65535 >= 0.5)
    rows.collect()
    return num_rows, columns, minors.to_pydict()["uri"]


def with_spark(folder: str) -> Answer:
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    rows = spark.read.parquet(folder)
    num_rows = len(rows.collect())
    if "age_cdf" not in rows.columns:
        return num_rows, rows.columns, None
    minors = spark.sql(f"SELECT uri FROM parquet.`{folder}` WHERE age_cdf[18] / 65535 >= 0.5").collect()
    return num_rows, rows.columns, [row.uri for row in minors]


READERS = {name.removeprefix("with_"): read for name, read in globals().items() if name.startswith("with_")}


def main(reader: str, folder: str) -> None:
    num_rows, columns, minors = READERS[reader](folder)
    answer: dict[str, Any] = {"num_rows": num_rows, "columns": columns, "minors": minors and sorted(minors)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
