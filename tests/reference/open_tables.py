#!/usr/bin/env python3
"""Opens built tables with other libraries and checks the schema that datasets/README.md documents. Run by hand:

    pip install polars pyarrow duckdb datasets
    scaledown build-data --pipeline flux-dev --allow-missing
    scaledown data export --pipeline flux-dev --format hugging-face --to /tmp/export
    python3 tests/reference/open_tables.py datasets/built/flux-dev /tmp/export
"""

import pathlib
import sys

import datasets
import duckdb
import polars
import pyarrow.parquet

COLUMNS = {
    "prompt_id": ("uint64", "UBIGINT"),
    "dataset": ("string", "VARCHAR"),
    "source": ("string", "VARCHAR"),
    "category": ("string", "VARCHAR"),
    "split": ("string", "VARCHAR"),
    "prompt": ("string", "VARCHAR"),
    "target_text": ("string", "VARCHAR"),
    "structure": ("string", "VARCHAR"),
    "scene": ("string", "VARCHAR"),
    "t5_tokens": ("uint64", "UBIGINT"),
    "clip_tokens": ("uint64", "UBIGINT"),
    "flags": ("list<item: string>", "VARCHAR[]"),
    "licence": ("string", "VARCHAR"),
}


def check_table(path):
    table = pyarrow.parquet.read_table(path)
    found = {field.name: str(field.type) for field in table.schema}
    assert found == {name: types[0] for name, types in COLUMNS.items()}, found
    file = pyarrow.parquet.ParquetFile(path)
    assert file.metadata.metadata[b"scaledown.prompts.version"] == b"2"
    for group in range(file.metadata.num_row_groups):
        for at in range(file.metadata.num_columns):
            column = file.metadata.row_group(group).column(at)
            assert column.compression == "ZSTD" and column.statistics is not None, (group, column.path_in_schema)
    frame = polars.read_parquet(path)
    assert frame.columns == list(COLUMNS) and frame.height == table.num_rows
    ids = frame["prompt_id"]
    assert ids.is_sorted() and ids.n_unique() == frame.height
    described = duckdb.sql(f"describe select * from read_parquet('{path}')").fetchall()
    assert {row[0]: row[1] for row in described} == {name: types[1] for name, types in COLUMNS.items()}, described
    counted = duckdb.sql(f"select count(*), count(distinct prompt_id) from read_parquet('{path}')").fetchall()[0]
    assert counted == (frame.height, frame.height), counted
    print(f"{path.name}: {frame.height} rows in pyarrow, polars and DuckDB")


def main():
    built, exported = (pathlib.Path(argument) for argument in sys.argv[1:3])
    tables = sorted(built.glob("*.parquet"))
    assert tables, f"no tables in {built}"
    for path in tables:
        check_table(path)
    for name in sorted(datasets.get_dataset_config_names(str(exported))):
        for split, rows in datasets.load_dataset(str(exported), name).items():
            assert list(rows.features) == list(COLUMNS), rows.features
            print(f"datasets: {name}, {split}: {rows.num_rows} rows, first `{rows[0]['prompt']}`")


main()
