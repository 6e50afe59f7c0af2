"""Several catalogs in one run: where each image is from, how much it counts, and that none is taken twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
from factories import PART, Row, write_catalog

from agescale.config import TrainConfig
from agescale.store import objects, parquet
from agescale.training import plan
from agescale.training.plan import Selected

SMALL = TrainConfig(encoder="cnn", widths=(4,), image_size=32)


def row(name: str, split: str = "train", content: str | None = None, **labels: Any) -> Row:
    age = float(sum(map(ord, name)) % 80)
    return {
        "uri": f"/in/{name}", "version": "1", "deleted": False, "content_hash": content or name, "split": split,
        "age_low": age, "age_high": age + 1, **labels,
    }  # fmt: skip


def rows_of(name: str, num_train: int, **labels: Any) -> list[Row]:
    """Of a catalog with that many images in train, and two in val."""
    splits = ["train"] * num_train + ["val"] * 2
    return [row(f"{name}-{index:03}", split, **labels) for index, split in enumerate(splits)]


def write(folder: Path, name: str, rows: list[Row], age_groups: str | None = "25-years") -> str:
    return write_catalog(str(folder / name), {PART: rows}, settings={"age_groups": age_groups}, identity=name)


def splits_of(config: TrainConfig) -> Any:
    return plan.build_plan(config, plan.select(config))[1]


def uris_of(selected: Selected, split: str, catalog: int) -> list[str]:
    is_one = pc.and_(pc.equal(selected.rows["split"], split), pc.equal(selected.rows["catalog"], catalog))
    return [uri.removeprefix("/in/") for uri in selected.rows.filter(is_one)["uri"].to_pylist()]


def test_a_run_knows_of_which_catalog_its_images_are_and_goes_on_with_them(tmp_path: Path) -> None:
    """Parts of both have the same name."""
    b, a = (write(tmp_path, name, rows_of(name, num)) for name, num in (("b", 3), ("a", 2)))
    config, begun = replace(SMALL, catalog=(b, a)), str(tmp_path / "run" / "run.json")
    first = plan.select(config)
    assert first.rows["catalog"].to_pylist() == [0] * 5 + [1] * 4
    assert uris_of(first, "train", 1) == ["a-000", "a-001"]
    assert first.run["settings"]["catalog"] == [b, a]
    assert set(first.places) >= {a, b}
    plan.pin_images(str(tmp_path / "run"), first)
    objects.write_bytes(begun, b"{}")
    write(tmp_path, "a", rows_of("a", 7))
    again = plan.select(config, begun)
    assert again.rows.equals(first.rows)
    assert again.run == first.run
    assert plan.select(config).run["data"] != first.run["data"]
    plan.pin_images(str(tmp_path / "run"), replace(first, rows=first.rows.drop_columns(["subject"])))
    assert plan.select(config, begun).run == first.run, "an older agescale began it, which looked at no persons"
    assert splits_of(config)["val"]["is_counted"].to_pylist() == [True] * 4
    for others in ((a, b), (b,), (b, write(tmp_path, "c", rows_of("c", 2)))):
        with pytest.raises(ValueError, match=r"/run: --catalog is not the one that it began with"):
            plan.select(replace(config, catalog=others), begun)
    parquet.write_table(f"{tmp_path}/run/{plan.IMAGES_NAME}", first.rows.replace_schema_metadata({"catalog_id": "b"}))
    with pytest.raises(ValueError, match=r"/run: begun by an older agescale, .*; give another --out"):
        plan.select(config, begun)


def test_no_photo_is_learned_from_that_another_catalog_holds_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By its content, or by its URI where it was only listed; unlabelled or not."""
    b = [row("val", "val"), row("test", "test", age_low=None, age_high=None), row("both")]
    b += [row("fine"), {**row("listed", "test"), "content_hash": None}]
    a = [row("copy-of-val", content="val"), row("copy-of-test", content="test"), row("copy-of-both", content="both")]
    a += [row("listed"), row("mine"), row("judged", "val"), row("tested-there", "val", content="test")]
    config = replace(SMALL, catalog=(write(tmp_path, "a", a), write(tmp_path, "b", b)))
    selected = plan.select(config)
    assert uris_of(selected, "train", 0) == ["copy-of-both", "mine"]
    assert uris_of(selected, "val", 0) == ["judged"]
    assert uris_of(selected, "train", 1) == ["fine"]
    assert uris_of(selected, "val", 1) == ["val"]
    assert capsys.readouterr().out.startswith("5 images are left out, because another of the catalogs tests or valid")
    plan.select(replace(config, catalog=config.catalog[:1]))
    assert capsys.readouterr().out == ""
    assert "content_hash" not in selected.rows.column_names


def test_the_images_of_each_catalog_weigh_its_share(tmp_path: Path) -> None:
    catalog = tuple(write(tmp_path, name, rows_of(name, num)) for name, num in (("a", 30), ("b", 10)))
    config = replace(SMALL, catalog=catalog)
    assert set(splits_of(config)["train"]["weight"].to_pylist()) == {1.0}
    for mix in ((0.25, 0.75), (1, 3)):
        train = splits_of(replace(config, mix=mix))["train"]
        np.testing.assert_allclose(train["weight"].to_numpy(), [0.25 * 40 / 30] * 30 + [0.75 * 40 / 10] * 10)
    assert set(splits_of(replace(config, mix=(1, 3)))["val"]["weight"].to_pylist()) == {1.0}
    alone = splits_of(replace(config, weighting="density"))["train"]["weight"].to_numpy()
    both = splits_of(replace(config, weighting="density", mix=(1, 3)))["train"]["weight"].to_numpy()
    assert both[30:].sum() == pytest.approx(3 * both[:30].sum())
    assert both.sum() == pytest.approx(alone.sum())
    for part in (slice(0, 30), slice(30, 40)):
        assert len(set((both[part] / alone[part]).round(4))) == 1


def test_women_and_men_of_each_decade_may_weigh_the_same(tmp_path: Path) -> None:
    age = {"age_low": 30.0, "age_high": 31.0}
    women, men = rows_of("women", 6, gender="female", **age), rows_of("men", 2, gender="male", **age)
    catalog = write(tmp_path, "few-men", women + men)
    train = splits_of(replace(SMALL, catalog=(catalog,), weighting="gender+decade"))["train"]
    weight_N, is_man_N = train["weight"].to_numpy(), np.array(["women" not in uri for uri in train["uri"].to_pylist()])
    assert weight_N[is_man_N].sum() == pytest.approx(weight_N[~is_man_N].sum())
    nobody = replace(SMALL, catalog=(write(tmp_path, "no-gender", rows_of("x", 3)),), weighting="gender+decade")
    with pytest.raises(ValueError, match=r"--weighting gender\+decade: no training image has both"):
        splits_of(nobody)


def test_what_does_not_go_together_is_told_in_one_line(tmp_path: Path) -> None:
    a = write(tmp_path, "a", rows_of("a", 3, gender="male") + rows_of("a-more", 3, gender="female"))
    b = write(tmp_path, "b", rows_of("b", 3, gender="M") + rows_of("b-more", 3, gender="F"))
    decades, unlabelled = write(tmp_path, "decades", rows_of("d", 3), "10-years"), write(tmp_path, "none", [], None)
    copies = write(tmp_path, "copies", [row(f"copy-{n}", content=f"a-{n:03}") for n in range(3)])
    both = replace(SMALL, catalog=(a, b))
    mistakes = {
        f"--auxiliary gender: .*{a} says ['female', 'male']; {b} says ['F', 'M']": replace(both, auxiliary=("gender",)),
        f"their age groups are not the same ({a} has ": replace(SMALL, catalog=(a, decades)),
        f"{unlabelled}: an unlabelled catalog": replace(SMALL, catalog=(a, unlabelled)),
        f"--catalog: {a} and {a} are the same one": replace(SMALL, catalog=(a, a)),
        f"{copies}: no usable labelled image is left of its train": replace(SMALL, catalog=(a, copies)),
    }
    for words, config in mistakes.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011  (each message is looked at)
            splits_of(config)
        assert all(part in str(caught.value) for part in words.split(".*")), caught.value
        assert "\n" not in str(caught.value)
    assert len(splits_of(both)["train"]) == 12
    assert len(splits_of(replace(SMALL, catalog=(a, decades), age_groups="10-years"))["train"]) == 9
    with pytest.raises(ValueError, match=r"^--mix 0.5 0.5: a share for each of --catalog, which names 1$"):
        TrainConfig(catalog=(a,), mix=(0.5, 0.5))
    with pytest.raises(ValueError, match=r"^--mix 0 1: more than 0$"):
        TrainConfig(catalog=(a, b), mix=(0, 1))
