"""List a folder or bucket of face photos once, into a catalog: what is there, its labels, and what is wrong with it.

python jobs/catalog.py --source s3://bucket/faces --layout class_folders --out s3://bucket/catalog
"""

from __future__ import annotations

from agescale import catalogs, plots, storage, tables, terminal
from agescale.cataloging import CatalogResult, build_catalog, count_by_group_and_split, count_by_kind
from agescale.command_line import run_job
from agescale.config import CatalogConfig


def main(config: CatalogConfig) -> None:
    result = build_catalog(config)
    print_summary(result)
    charts = ""
    if result.rows is not None:
        beside = tables.beside(config.out)
        classes = plots.class_distribution(result.rows, names=result.group_names)
        storage.write_bytes(storage.join(beside, "ages.png"), plots.to_png(plots.age_distribution(result.rows)))
        storage.write_bytes(storage.join(beside, "classes.png"), plots.to_png(classes))
        charts = ", beside ages.png and classes.png"
    if result.ignored:
        print(f"ignored: {', '.join(f'{count:,} {ending}' for ending, count in result.ignored.items())}")
    if result.unused_columns:
        print(f"not used, though the CSV seems to tell it: {' '.join(result.unused_columns)}")
    print(f"findings: {catalogs.findings_uri(config.out)}{charts}")
    print(f"catalog: {storage.absolute(config.out)}")


def print_summary(result: CatalogResult) -> None:
    counts = {
        "images": result.num_current,
        "new": result.num_new,
        "changed": result.num_changed,
        "deleted": result.num_deleted,
        "other files, ignored": result.num_ignored,
    }
    counts |= {f"finding: {kind}": count for kind, count in count_by_kind(result.findings).items()}
    terminal.print_table(["catalog", "rows"], [[what, f"{count:,}"] for what, count in counts.items()])
    if result.rows is None:  # only listed: without labels or splits
        return
    by_group = count_by_group_and_split(result)
    rows = [[group, *(f"{count:,}" for count in by_split.values())] for group, by_split in by_group.items()]
    terminal.print_table(["age group", *by_group["none"]], rows)


if __name__ == "__main__":
    run_job(main, CatalogConfig)
