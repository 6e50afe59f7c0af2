"""List a folder or bucket of face photos once, into a catalog: what is there, its labels, and what is wrong with it.

python jobs/catalog.py --source s3://bucket/faces --layout class_folders --out s3://bucket/catalog
"""

from __future__ import annotations

from agescale.cataloging import plots
from agescale.cataloging.driver import build_catalog
from agescale.cataloging.report import write_report
from agescale.cataloging.summary import CatalogResult, count_by_group_and_split, count_by_kind, remarks
from agescale.config import CatalogConfig
from agescale.reports.figures import to_png
from agescale.runtime import terminal
from agescale.store import objects, paths
from agescale.tables import catalogs, faces, folders


def main(config: CatalogConfig) -> None:
    config = paths.with_absolute_uris(config)
    result = build_catalog(config)
    print_summary(result)
    as_csv = charts = ""
    if result.rows is not None:
        as_csv, charts = " (and .csv)", f", beside {' and '.join(write_charts(config.out, result))}"
    if result.ignored:
        print(f"ignored: {', '.join(f'{count:,} {ending}' for ending, count in result.ignored.items())}")
    for remark in remarks(result):
        print(terminal.printable(remark))
    if result.unused_columns:
        print(f"columns not used, though they look like labels: {' '.join(result.unused_columns)}")
    if config.suspects:
        from agescale.models import included  # here, since torch takes seconds

        print(included.NOTE)
    print(f"findings: {catalogs.findings_uri(config.out)}{as_csv}{charts}")
    if config.faces != "none":
        print(f"faces: {faces.folder(config.out, faces.default_geometry(config.faces))}")
    if config.report:
        print(f"report: {write_report(config.out, result, config.pictures)}")
    print(f"catalog: {config.out}")


def write_charts(out: str, result: CatalogResult) -> list[str]:
    """Draws how many images there are of each age, where any has one, and of each class; returns the files' names."""
    assert result.rows is not None, "of images that are only listed there is nothing to draw"
    figures = {"classes.png": plots.class_distribution(result.rows, names=result.group_names)}
    if result.rows["age_low"].null_count < len(result.rows):
        figures = {"ages.png": plots.age_distribution(result.rows), **figures}
    for name, figure in figures.items():
        objects.write_bytes(paths.join(folders.beside(out), name), to_png(figure))
    return list(figures)


def print_summary(result: CatalogResult) -> None:
    counts = {
        "images": result.num_current,
        "new": result.num_new,
        "changed": result.num_changed,
        "deleted": result.num_deleted,
        "other files, ignored": result.num_ignored,
    }
    if result.rows is not None:
        counts["relabelled"] = sum(bool(each.words) for each in result.relabelled)
    counts |= {f"finding: {kind}": count for kind, count in count_by_kind(result.findings).items()}
    terminal.print_table(["catalog", "rows"], [[what, f"{count:,}"] for what, count in counts.items()])
    if result.rows is None:  # only listed: without labels or splits
        return
    by_group = count_by_group_and_split(result)
    rows = [[group, *(f"{count:,}" for count in by_split.values())] for group, by_split in by_group.items()]
    terminal.print_table(["age group", *by_group["none"]], rows)
