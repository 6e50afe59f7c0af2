"""What a cataloging job says at its end: counts, and what is odd about the labels, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from agescale.ages.few import ENOUGH_FACES, ENOUGH_TO_LEARN
from agescale.ages.groups import AgeGroups
from agescale.ages.labels import FULL_AGE
from agescale.cataloging.relabelling import Relabelled
from agescale.tables import catalogs, schema


@dataclass(frozen=True)
class CatalogResult:
    """What a run found: rows added by what they are, files that are no images, and the findings of all current rows.

    ``rows`` are the current rows' facts, one for each label, where ``group`` is the age group; None where images are
    only listed.
    """

    num_new: int
    num_changed: int
    num_deleted: int
    num_current: int
    num_ignored: int
    findings: pa.Table
    rows: pa.Table | None = None
    group_names: tuple[str, ...] = ()
    unused_columns: tuple[str, ...] = ()  # settings for columns of the CSV that seem to be known, and were not named
    ignored: Mapping[str, int] = field(default_factory=dict)  # files that are no images, by the ends of their names
    relabelled: tuple[Relabelled, ...] = ()  # rows whose labels are other ones now
    judged: str = ""  # in words, how many labels were judged, where that was asked for
    new_groups: str = ""  # in words, where the age groups are other ones now


def count_by_kind(findings: pa.Table) -> dict[str, int]:
    return dict(sorted(Counter(findings["kind"].to_pylist()).items()))


def count_by_group_and_split(result: CatalogResult) -> dict[str, dict[str, int]]:
    """Images by age group, then by split; those without one count as ``none``. Splits without an image are left out."""
    assert result.rows is not None, "images that are only listed have neither"
    groups, splits_of_rows = (pc.fill_null(result.rows[name], "none").to_pylist() for name in ("group", "split"))
    counts = Counter(zip(groups, splits_of_rows, strict=True))
    present = [split for split in (*schema.SPLITS, "none") if split in splits_of_rows]
    return {group: {split: counts[group, split] for split in present} for group in (*result.group_names, "none")}


def remarks(result: CatalogResult) -> list[str]:
    """What a table of counts does not say by itself, a line each: no ages, and classes that cannot be validated."""
    if result.rows is None or not result.group_names:
        return []
    found = [*_about_labels(result), *_about_hashes(result), *filter(None, [result.judged])]
    if pc.all(pc.is_null(result.rows["age_low"])).as_py():
        names = ",".join(
            f"{name}=0-12" if index == 0 else f"{name}=..." for index, name in enumerate(result.group_names)
        )
        found.append(
            "no image has an age, only a class name: models can learn classes, but no ages; to give them ages, run the "
            f'same command with --age-groups "{names}"'
        )
    if outside := count_by_kind(result.findings).get("outside_groups"):
        found.append(f"{outside:,} images have an age or age range outside all age groups")
    return found + about_few(result)


def about_few(result: CatalogResult) -> list[str]:
    """Of whom there are too few to learn from, or to choose a model by, a line each; in words without a name."""
    if result.rows is None or not result.group_names:
        return []
    found, by_group = [], count_by_group_and_split(result)
    learned, validated = (
        {name: by_group[name].get(split, 0) for name in result.group_names} for split in ("train", "val")
    )
    if not any(learned.values()):
        return []
    few = [f"{name} ({count:,})" for name, count in learned.items() if count < ENOUGH_TO_LEARN]
    if few:
        found.append(
            f"few training images (under {ENOUGH_TO_LEARN}): {', '.join(few)}; a model hardly learns such people"
        )
    high = pc.fill_null(result.rows["age_high"].filter(pc.equal(result.rows["split"], "train")), -1).to_numpy()
    num_known, num_minors = int((high >= 0).sum()), int(((high >= 0) & (high <= FULL_AGE)).sum())
    if num_known and num_minors < ENOUGH_TO_LEARN:
        found.append(
            f"few minors: of {num_known:,} training images with an age {num_minors:,} are of people under {FULL_AGE}; "
            "a model hardly learns children"
        )
    few = [f"{name} ({validated[name]})" for name in learned if learned[name] and validated[name] < ENOUGH_FACES]
    if few:
        found.append(
            f"few validation images (under {ENOUGH_FACES}): {', '.join(few)}; which epoch is best "
            "for them is mostly chance; enlarge the validation share of --split"
        )
    return found


def _about_hashes(result: CatalogResult) -> list[str]:
    """Of a catalog that an older agescale has begun."""
    assert result.rows is not None
    is_unknown = pc.and_(pc.is_valid(result.rows["width"]), pc.is_null(result.rows["perceptual_hash"]))
    num_unknown = pc.count_distinct(result.rows["uri"].filter(is_unknown)).as_py()
    if not num_unknown:
        return []
    reason = "flat pictures, or listed by an older agescale; a new catalog knows of the latter"
    return [f"images of which is not known what looks the same as they: {num_unknown:,} ({reason})"]


NUM_IN_WORDS = 10


def _about_labels(result: CatalogResult) -> list[str]:
    """What is new about labels that the catalog had already."""
    found = [f"age groups: {result.new_groups}"] if result.new_groups else []
    changed = [each for each in result.relabelled if each.words]
    if changed:
        found.append(f"labels changed (images not read again): {len(changed):,}")
        found += [f"    {each.uri}: {each.words}" for each in changed[:NUM_IN_WORDS]]
        found += [f"    and {len(changed) - NUM_IN_WORDS:,} others"] if len(changed) > NUM_IN_WORDS else []
    if moved := sum(each.moves for each in result.relabelled):
        found.append(f"of these, moved to another split by their subject or split: {moved:,}; scored again next")
    return found


def with_group_names(rows: pa.Table, age_groups: AgeGroups | None) -> pa.Table:
    """``rows`` with the name of the age group, or null, in place of the class name."""
    if age_groups is None:
        return rows
    indices = catalogs.group_indices(rows, age_groups).tolist()
    names = pa.array(age_groups.names, pa.string()).take(pc.if_else(pc.less(indices, 0), None, indices))
    return rows.set_column(rows.schema.get_field_index("group"), "group", names)
