"""The page of a catalog's findings: what there is of each kind, with pictures side by side or with nothing to see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import factories
import numpy as np
import pyarrow as pa
import pytest
from html_page import Page

from agescale.cataloging import report
from agescale.cataloging.summary import CatalogResult
from agescale.faces import images
from agescale.store import objects
from agescale.tables import schema
from agescale.tables.catalogs import Catalog

EVIL = "<script>alert(1)</script>.jpg"


def image_row(name: str, split: str, age: float | None, colour: int) -> dict[str, Any]:
    picture = images.encode_jpeg(np.full((64, 64, 3), colour, np.uint8))
    return {"uri": f"/photos/{name}", "version": "1", "deleted": False, "age_low": age, "split": split,
            "age_high": None if age is None else age + 1, "gender": "female", "image": picture}  # fmt: skip


def finding(kind: str, name: str, related: str | None = None, detail: str = "") -> dict[str, Any]:
    return {"uri": f"/photos/{name}", "version": "1", "kind": kind, "detail": detail,
            "related_uri": related and f"/photos/{related}"}  # fmt: skip


FINDINGS = [
    finding("conflicting", "a.jpg", "b.jpg", "same bytes, labelled 30 here and 50 there"),
    finding("conflicting", "b.jpg", "a.jpg", "same bytes, labelled 50 here and 30 there"),
    finding("near_leaking", "c.jpg", "a.jpg", "looks the same: 3 of 256 bits differ; in train and test"),
    finding("suspect", EVIL),
    finding("of_a_later_version", "c.jpg"),
    finding("missing_file", "gone.jpg", detail="not there"),
]


@pytest.fixture
def listed(tmp_path: Path) -> tuple[str, CatalogResult]:
    rows = [image_row("a.jpg", "test", 30.0, 40), image_row("b.jpg", "test", 50.0, 40),
            image_row("c.jpg", "train", 30.0, 41), image_row(EVIL, "train", 9.0, 200)]  # fmt: skip
    out = factories.write_catalog(
        str(tmp_path / "catalog"), {factories.PART: rows}, FINDINGS, {"source": "/photos", "pack": 64}
    )
    told = [row | {"group": "adult"} for row in rows]
    table = pa.Table.from_pylist(told, pa.schema([field.with_nullable(True) for field in schema.CATALOG]))
    nothing = schema.FINDINGS.empty_table()
    return out, CatalogResult(4, 0, 0, 4, 0, nothing, table, ("adult", "senior"))


def test_each_kind_has_its_count_its_meaning_and_its_images_side_by_side(listed: tuple[str, CatalogResult]) -> None:
    out, result = listed
    uri = report.write_report(out, result)
    assert uri == f"{out}.agescale/findings.html"
    html = objects.read_bytes(uri).decode()
    page = Page(html)
    for part in (
        "Copies with different labels: 2", "Find out which label is right", "labelled 30 here and 50 there",
        "30, female, test", "50, female, test", "Look the same, in two splits: 1", "--leave-out near_leaking",
        "Of a later version: 1", "Missing files: 1", "gone.jpg", "not there", "Few minors: of 2 training images",
        "Few training images (under 100): adult (2), senior (0)",
    ):  # fmt: skip
        assert part in page.text, part
    assert "labelled 50 here" not in page.text, "a pair that is named from both sides is shown once"
    assert page.tags.count("img") == 2 + 2 + 1 + 1
    assert "script" not in page.tags
    assert EVIL in page.text
    assert all(reference.startswith(("#", "data:image/jpeg")) for reference in page.references)
    assert page.ids == ["conflicting", "near_leaking", "suspect", "missing_file", "of_a_later_version"]


def test_without_pictures_no_pixel_and_no_name_is_in_it(listed: tuple[str, CatalogResult]) -> None:
    out, result = listed
    page = Page(objects.read_bytes(report.write_report(out, result, has_pictures=False)).decode())
    assert "img" not in page.tags
    assert ".jpg" not in page.text
    assert Catalog.open(out).hidden_name("/photos/a.jpg") in page.text
    assert "30, female, test" in page.text


def test_a_catalog_without_findings_says_what_that_means(tmp_path: Path) -> None:
    out = factories.write_catalog(str(tmp_path / "catalog"), {factories.PART: [image_row("a.jpg", "test", 3.0, 9)]})
    result = CatalogResult(1, 0, 0, 1, 0, schema.FINDINGS.empty_table())
    assert "Nothing was found." in Page(objects.read_bytes(report.write_report(out, result)).decode()).text


def test_every_kind_of_finding_has_words() -> None:
    assert set(schema.FINDING_KINDS) <= report.KINDS.keys()
