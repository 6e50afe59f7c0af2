"""Tasks: losses and predictions, checked by numbers worked out by hand."""

from __future__ import annotations

import doctest
import math

import pytest
import torch

from agescale.age_groups import AgeGroups
from agescale.tasks import METRIC_DIRECTIONS, TASKS, build_task, classification, distribution, heads
from agescale.tasks.classification import Classification
from agescale.tasks.distribution import Distribution

NAN, INF = float("nan"), float("inf")
GROUPS = AgeGroups.parse("25-years")


def batch_of(*labels):
    """Labels are (age_low, age_high, group)."""
    low, high, group = zip(*labels, strict=True)
    return {
        "age_low": torch.tensor(low, dtype=torch.float32),
        "age_high": torch.tensor(high, dtype=torch.float32),
        "group": torch.tensor(group),
    }


LABELS = [(34, 35, 1), (25, 50, 1), (75, INF, -1), (NAN, NAN, -1)]


@pytest.fixture(params=TASKS)
def task(request):
    return build_task(request.param, GROUPS)


@pytest.mark.parametrize("module", [classification, distribution, heads])
def test_worked_examples_in_the_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_every_task_watches_a_known_metric(task):
    assert METRIC_DIRECTIONS[task.metric] in ("min", "max")


@pytest.mark.parametrize("hidden", [(), (32, 16)])
def test_head_loss_and_decode_fit_together(task, hidden):
    torch.manual_seed(0)
    head = task.build_head(24, hidden, 0.2)
    outputs = head(torch.randn(4, 24))
    loss_N, weight_N = task.loss(outputs, batch_of(*LABELS))
    assert loss_N.shape == weight_N.shape == (4,)
    assert loss_N.dtype == weight_N.dtype == torch.float32
    assert weight_N[3] == loss_N[3] == 0
    (loss_N.sum() / weight_N.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    probs_NA = task.decode(outputs).age_probs_NA
    assert probs_NA.shape == (4, 101)
    torch.testing.assert_close(probs_NA.sum(dim=1), torch.ones(4))


def test_unlabelled_images_change_neither_loss_nor_gradient(task):
    torch.manual_seed(0)
    outputs = torch.randn(4, 5 if task.metric == "accuracy" else 101)
    gradients = []
    for rows in ([0, 1], [0, 1, 3]):
        leaf = outputs[rows].clone().requires_grad_()
        loss_N, weight_N = task.loss(leaf, batch_of(*(LABELS[row] for row in rows)))
        (loss_N.sum() / weight_N.sum()).backward()
        gradients.append(leaf.grad[:2])
        assert (leaf.grad[2:] == 0).all()
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_losses_of_parts_add_up_to_the_loss_of_the_whole(task):
    torch.manual_seed(0)
    outputs = torch.randn(4, 5 if task.metric == "accuracy" else 101)
    whole_N, _ = task.loss(outputs, batch_of(*LABELS))
    parts = [task.loss(outputs[i : i + 1], batch_of(LABELS[i]))[0] for i in range(4)]
    torch.testing.assert_close(whole_N, torch.cat(parts))


def test_low_precision_and_extreme_outputs_stay_finite(task):
    num_outputs = 5 if task.metric == "accuracy" else 101
    for scale in (1.0, 1e3):
        outputs = torch.zeros(4, num_outputs, dtype=torch.bfloat16)
        outputs[:, 0] = scale
        outputs.requires_grad_()
        loss_N, _ = task.loss(outputs, batch_of(*LABELS))
        assert loss_N.dtype == torch.float32
        assert loss_N.isfinite().all()
        loss_N.sum().backward()
        assert outputs.grad.isfinite().all()
        assert task.decode(outputs).age_probs_NA.dtype == torch.float32


def test_automatic_low_precision_around_it_changes_nothing(task):
    outputs = torch.randn(4, 5 if task.metric == "accuracy" else 101, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_N, _ = task.loss(outputs, batch_of(*LABELS))
        probs_NA = task.decode(outputs).age_probs_NA
    assert torch.equal(loss_N, task.loss(outputs, batch_of(*LABELS))[0])
    assert torch.equal(probs_NA, task.decode(outputs).age_probs_NA)


def test_everything_happens_on_the_outputs_device(task):
    outputs = torch.zeros(4, 5 if task.metric == "accuracy" else 101, device="meta")
    loss_N, weight_N = task.loss(outputs, {key: tensor.to("meta") for key, tensor in batch_of(*LABELS).items()})
    assert loss_N.is_meta
    assert weight_N.is_meta
    assert task.decode(outputs).age_probs_NA.is_meta


def test_unknown_task_is_one_line():
    with pytest.raises(ValueError, match="no task is called 'ordinal'; there are classification, distribution"):
        build_task("ordinal", GROUPS)


def test_label_smoothing_mixes_in_the_uniform_distribution():
    logits_NG = torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0]])
    log_probs_G = logits_NG.log_softmax(1)[0]
    loss_N, _ = Classification(GROUPS, label_smoothing=0.1).loss(logits_NG, batch_of((10, 11, 0)))
    assert loss_N.item() == pytest.approx(-(0.9 * log_probs_G[0] + 0.1 * log_probs_G.mean()).item())


def test_decoded_ages_keep_the_probability_of_every_group():
    groups = AgeGroups.parse("child=0-12,adult=20-59,senior=60-")  # with a gap at 13-19
    probs_NG = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]])
    probs_NA = Classification(groups).decode(probs_NG.log()).age_probs_NA
    for index, (low, high) in enumerate(groups.bounds()):
        torch.testing.assert_close(probs_NA[:, low : int(min(high, 101))].sum(1), probs_NG[:, index])
    assert (probs_NA[:, 13:20] == 0).all()
    assert probs_NA[1, 60:].min() == pytest.approx(1 / 41) == probs_NA[1, 100].item()
    hundred = Classification(GROUPS).decode(torch.tensor([[0.0, 0, 0, 0, 50]])).age_probs_NA
    assert hundred[0, 100] == pytest.approx(1.0)


def test_groups_without_bounds_decode_to_group_probabilities():
    task = Classification(AgeGroups.parse("YOUNG,MIDDLE,OLD"))
    prediction = task.decode(torch.zeros(2, 3))
    assert prediction.age_probs_NA is None
    torch.testing.assert_close(prediction.group_probs_NG, torch.full((2, 3), 1 / 3))


def test_an_exact_age_is_learned_best_by_its_own_normal_distribution():
    task = Distribution()
    age_A = torch.arange(101.0)
    for age in (0.0, 34.0, 34.5, 99.0, 100.0):
        best_NA = (-0.5 * ((age_A - age) / 2) ** 2)[None]
        loss_N, _ = Distribution(l1_weight=0.0).loss(best_NA, batch_of((age, age + 1, 0)))
        assert loss_N.item() == pytest.approx(0, abs=1e-5)
    worse_NA = (-0.5 * ((age_A - 40) / 2) ** 2)[None]
    loss_N, _ = task.loss(worse_NA, batch_of((34, 35, 1)))
    assert loss_N.item() == pytest.approx(6**2 / (2 * 2**2) + 6, abs=1e-3)  # KL of two normals, and the distance


def test_all_mass_in_bin_34_is_the_age_34():
    logits_NA = torch.full((1, 101), -50.0)
    logits_NA[0, 34] = 50
    loss_N, _ = Distribution(sigma=0.1).loss(logits_NA, batch_of((34, 35, 1)))
    assert loss_N.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("low", "high", "bins"),
    [
        (25, 50, range(25, 50)),
        (0, 13, range(13)),
        (60, INF, range(60, 101)),
        (0, INF, range(101)),
        (100, INF, [100]),
        (105, 110, [100]),
        (90, 120, range(90, 101)),
        (25.5, 49.5, range(25, 50)),
    ],
)
def test_a_range_costs_minus_the_log_of_its_probability(low, high, bins):
    logits_NA = torch.randn(1, 101, generator=torch.Generator().manual_seed(0))
    loss_N, weight_N = Distribution().loss(logits_NA, batch_of((low, high, -1)))
    assert loss_N.item() == pytest.approx(-math.log(logits_NA.softmax(1)[0, list(bins)].sum()), abs=1e-5)
    assert weight_N.item() == 1


def test_ages_above_100_belong_to_the_last_bin():
    logits_NA = torch.randn(1, 101)
    above, _ = Distribution().loss(logits_NA, batch_of((110, 111, -1)))
    hundred, _ = Distribution().loss(logits_NA, batch_of((100, 101, -1)))
    torch.testing.assert_close(above, hundred)


def test_ages_and_ranges_train_one_head_together():
    torch.manual_seed(0)
    logits_A = torch.zeros(101, requires_grad=True)
    batch = batch_of((34, 35, 1), (30, 40, -1), (NAN, NAN, -1))
    optimizer = torch.optim.Adam([logits_A], lr=0.3)
    for _ in range(150):
        optimizer.zero_grad()
        loss_N, weight_N = Distribution().loss(logits_A.expand(3, -1), batch)
        (loss_N.sum() / weight_N.sum()).backward()
        optimizer.step()
    probs_A = logits_A.softmax(0)
    assert (probs_A * torch.arange(101)).sum().item() == pytest.approx(34, abs=0.3)
    assert probs_A[30:40].sum() > 0.98


def test_a_task_that_cannot_use_the_labels_says_so_in_one_line():
    names_only = AgeGroups.parse("YOUNG,MIDDLE,OLD")
    with pytest.raises(ValueError, match="1200 images have only the name of an age group and 7 no label") as caught:
        Distribution(names_only).check_labels(num_exact=0, num_range=0, num_group=1200, num_unlabelled=7)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="no image falls into one of the age groups 0-24=0-24,") as caught:
        Classification(GROUPS).check_labels(num_exact=5, num_range=0, num_group=0, num_unlabelled=2)
    assert "\n" not in str(caught.value)


def test_usable_labels_pass():
    Distribution(GROUPS).check_labels(num_exact=1, num_range=0, num_group=0, num_unlabelled=10)
    Distribution(GROUPS).check_labels(num_exact=0, num_range=1, num_group=1, num_unlabelled=0)
    Classification(GROUPS).check_labels(num_exact=1, num_range=0, num_group=1, num_unlabelled=0)
