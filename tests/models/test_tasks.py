"""Tasks: losses and predictions, checked by numbers worked out by hand."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
import torch
from coral_pytorch.dataset import corn_label_from_logits, levels_from_labelbatch, proba_to_label
from coral_pytorch.losses import coral_loss, corn_loss
from torch import nn

from agescale.ages import cdf
from agescale.ages.groups import AgeGroups
from agescale.models import tasks
from agescale.models.spec import predicts_age
from agescale.models.tasks import (
    TASKS,
    build_task,
    classification,
    distribution,
    heads,
    labels,
    ordinal,
    reconstruction,
    regression,
)
from agescale.models.tasks.classification import Classification
from agescale.models.tasks.distribution import Distribution
from agescale.models.tasks.ordinal import Ordinal
from agescale.models.tasks.reconstruction import Reconstruction
from agescale.models.tasks.regression import Regression
from agescale.training import validation

NAN, INF = float("nan"), float("inf")
GROUPS = AgeGroups.parse("25-years")
TASK_LOSSES = [(name, loss) for name in TASKS for loss in TASKS[name].losses]
AGE_TASK_LOSSES = [(name, loss) for name, loss in TASK_LOSSES if TASKS[name].predicts_age]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The tensors are small: on a busy machine, threads would mostly wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def encoder_of(num_features):
    """What a task knows of an encoder."""
    encoder = nn.Identity()
    encoder.num_features = num_features
    return encoder


def num_outputs_of(task):
    return task.build_head(encoder_of(4), (), 0.0)(torch.zeros(1, 4)).shape[1]


def batch_of(*labels):
    """Labels are (age_low, age_high, group)."""
    low, high, group = zip(*labels, strict=True)
    return {
        "age_low": torch.tensor(low, dtype=torch.float32),
        "age_high": torch.tensor(high, dtype=torch.float32),
        "group": torch.tensor(group),
    }


LABELS = [(34, 35, 1), (25, 50, 1), (75, INF, -1), (NAN, NAN, -1)]


@pytest.fixture(params=AGE_TASK_LOSSES, ids="-".join)
def task(request):
    name, loss = request.param
    return build_task(name, GROUPS, loss)


@pytest.mark.parametrize(
    "module", [tasks, classification, distribution, heads, labels, ordinal, reconstruction, regression]
)
def test_worked_examples_in_the_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize("name", TASKS)
def test_every_task_keeps_the_contract(name):
    task = build_task(name, GROUPS)
    assert validation.DIRECTIONS[task.metric] in ("min", "max")
    assert task.reads == ("feature_map" if name == "reconstruction" else "features")
    assert task.predicts_age == predicts_age(name) == (name != "reconstruction")
    assert task.loss_name == task.losses[0] == TASKS[name](GROUPS).loss_name
    assert all(build_task(name, GROUPS, loss).loss_name == loss for loss in task.losses)


@pytest.mark.parametrize("head_sizes", [(), (32, 16)])
def test_head_loss_and_decode_fit_together(task, head_sizes):
    torch.manual_seed(0)
    head = task.build_head(encoder_of(24), head_sizes, 0.2)
    outputs = head(torch.randn(4, 24))
    loss_N, weight_N = task.loss(outputs, batch_of(*LABELS))
    assert loss_N.shape == weight_N.shape == (4,)
    assert loss_N.dtype == weight_N.dtype == torch.float32
    assert weight_N[3] == loss_N[3] == 0
    (loss_N.sum() / weight_N.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    probs_NA = task.predict(outputs).age_probs_NA
    assert probs_NA.shape == (4, 101)
    torch.testing.assert_close(probs_NA.sum(dim=1), torch.ones(4))


def test_unlabelled_images_change_neither_loss_nor_gradient(task):
    torch.manual_seed(0)
    outputs = torch.randn(4, num_outputs_of(task))
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
    outputs = torch.randn(4, num_outputs_of(task))
    whole_N, _ = task.loss(outputs, batch_of(*LABELS))
    parts = [task.loss(outputs[i : i + 1], batch_of(LABELS[i]))[0] for i in range(4)]
    torch.testing.assert_close(whole_N, torch.cat(parts))


def test_low_precision_and_extreme_outputs_stay_finite(task):
    for scale, columns in ((1.0, [0]), (1e3, [0]), (-1e3, [0]), (1e3, slice(None)), (-1e3, slice(None))):
        outputs = torch.zeros(4, num_outputs_of(task), dtype=torch.bfloat16)
        outputs[:, columns] = scale
        outputs.requires_grad_()
        loss_N, _ = task.loss(outputs, batch_of(*LABELS))
        assert loss_N.dtype == torch.float32
        assert loss_N.isfinite().all()
        loss_N.sum().backward()
        assert outputs.grad.isfinite().all()
        probs_NA = task.predict(outputs).age_probs_NA
        assert probs_NA.dtype == torch.float32
        assert (probs_NA >= 0).all()
        torch.testing.assert_close(probs_NA.sum(dim=1), torch.ones(4))


def test_automatic_low_precision_around_it_changes_nothing(task):
    outputs = torch.randn(4, num_outputs_of(task), generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_N, _ = task.loss(outputs, batch_of(*LABELS))
        probs_NA = task.predict(outputs).age_probs_NA
    assert torch.equal(loss_N, task.loss(outputs, batch_of(*LABELS))[0])
    assert torch.equal(probs_NA, task.predict(outputs).age_probs_NA)


def test_everything_happens_on_the_outputs_device(task):
    outputs = torch.zeros(4, num_outputs_of(task), device="meta")
    loss_N, weight_N = task.loss(outputs, {key: tensor.to("meta") for key, tensor in batch_of(*LABELS).items()})
    assert loss_N.is_meta
    assert weight_N.is_meta
    assert task.predict(outputs).age_probs_NA.is_meta


def test_unknown_task_is_one_line():
    with pytest.raises(ValueError, match="no task is called 'rank'; there are classification, regression, distr"):
        build_task("rank", GROUPS)


def test_unknown_loss_or_setting_is_one_line():
    with pytest.raises(ValueError, match=r"^ordinal has no loss 'l1'; it has coral, corn$"):
        build_task("ordinal", GROUPS, "l1")
    with pytest.raises(ValueError, match=r"^regression does not take --label-smoothing; classification does$"):
        build_task("regression", GROUPS, label_smoothing=0.1)
    with pytest.raises(ValueError, match=r"^ordinal does not take --image-size$"):
        build_task("ordinal", GROUPS, image_size=96)
    assert build_task("classification", GROUPS, label_smoothing=0.1).label_smoothing == 0.1
    assert build_task("ordinal", GROUPS, "corn", rank_weights=(0.5,) * 100).rank_weights == (0.5,) * 100


def test_label_smoothing_mixes_in_the_uniform_distribution():
    logits_NG = torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0]])
    log_probs_G = logits_NG.log_softmax(1)[0]
    loss_N, _ = Classification(GROUPS, label_smoothing=0.1).loss(logits_NG, batch_of((10, 11, 0)))
    assert loss_N.item() == pytest.approx(-(0.9 * log_probs_G[0] + 0.1 * log_probs_G.mean()).item())


def test_decoded_ages_keep_the_probability_of_every_group():
    groups = AgeGroups.parse("child=0-12,adult=20-59,senior=60-")  # with a gap at 13-19
    probs_NG = torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.0, 1.0]])
    probs_NA = Classification(groups).predict(probs_NG.log()).age_probs_NA
    for index, (low, high) in enumerate(groups.bounds()):
        torch.testing.assert_close(probs_NA[:, low : int(min(high, 101))].sum(1), probs_NG[:, index])
    assert (probs_NA[:, 13:20] == 0).all()
    assert probs_NA[1, 60:].min() == pytest.approx(1 / 41) == probs_NA[1, 100].item()
    hundred = Classification(GROUPS).predict(torch.tensor([[0.0, 0, 0, 0, 50]])).age_probs_NA
    assert hundred[0, 100] == pytest.approx(1.0)


def test_groups_without_bounds_decode_to_group_probabilities():
    task = Classification(AgeGroups.parse("YOUNG,MIDDLE,OLD"))
    prediction = task.predict(torch.zeros(2, 3))
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


@pytest.mark.parametrize("task", [Distribution(), Regression(), Ordinal()])
def test_ages_cannot_be_learned_from_names_alone(task):
    with pytest.raises(ValueError, match="needs ages or age ranges: 9 images have only the name") as caught:
        task.check_labels(num_exact=0, num_range=0, num_group=9, num_unlabelled=0)
    assert "\n" not in str(caught.value)
    task.check_labels(num_exact=1, num_range=0, num_group=9, num_unlabelled=0)
    task.check_labels(num_exact=0, num_range=1, num_group=9, num_unlabelled=0)


def test_usable_labels_pass():
    Reconstruction().check_labels(num_exact=0, num_range=0, num_group=0, num_unlabelled=1)
    Distribution(GROUPS).check_labels(num_exact=1, num_range=0, num_group=0, num_unlabelled=10)
    Distribution(GROUPS).check_labels(num_exact=0, num_range=1, num_group=1, num_unlabelled=0)
    Classification(GROUPS).check_labels(num_exact=1, num_range=0, num_group=1, num_unlabelled=0)


# ----------------------------------------------------------------------------------------------------------------------
# mean-variance


def test_mean_variance_adds_the_squared_error_and_the_variance_to_the_cross_entropy():
    """Half in 30, half in 40: mean 35, variance 25; the age 30 costs ln 2 + 0.2 * 5^2 / 2 + 0.05 * 25."""
    logits_NA = torch.full((1, 101), -1e4)
    logits_NA[0, [30, 40]] = 0
    loss_N, _ = Distribution(loss_name="mean-variance").loss(logits_NA, batch_of((30, 31, 1)))
    assert loss_N.item() == pytest.approx(math.log(2) + 2.5 + 1.25, abs=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# regression


@pytest.mark.parametrize(
    ("age", "low", "high", "l1", "huber"),
    [
        (40, 34, 35, 6, 3.5),
        (36, 34, 35, 2, 0.4),  # 2^2 / (2 * 5)
        (34.5, 34.5, 35.5, 0, 0),
        (12.3, 12.3, 13.3000004, 0, 0),
        (20, 25, 50, 5, 2.5),
        (49, 25, 50, 0, 0),
        (49.5, 25, 50, 0.5, 0.025),
        (60, 25, 50, 11, 8.5),
        (50, 60, INF, 10, 7.5),
        (250, 60, INF, 0, 0),
        (100, 110, 111, 0, 0),
        (90, 105, 110, 10, 7.5),
    ],
)
def test_regression_costs_the_distance_to_the_nearest_admissible_age(age, low, high, l1, huber):
    outputs = torch.tensor([[(age - 40) / 20]])
    for loss_name, expected in {"l1": l1, "huber": huber}.items():
        loss_N, weight_N = Regression(loss_name=loss_name).loss(outputs, batch_of((low, high, -1)))
        assert loss_N.item() == pytest.approx(expected, abs=1e-4)
        assert weight_N.item() == 1


def test_regression_pulls_towards_a_range_from_outside_only():
    outputs = torch.tensor([[-1.0], [0.0], [1.0]], requires_grad=True)  # 20, 40 and 60 years
    loss_N, _ = Regression().loss(outputs, batch_of(*[(25, 50, -1)] * 3))
    loss_N.sum().backward()
    assert outputs.grad[:, 0].tolist() == [-20, 0, 20]


def test_regression_is_stored_so_that_every_rule_reports_its_age():
    ages = torch.cat([torch.arange(0, 100.01, 0.03, dtype=torch.float64), torch.tensor([-7, 33.5, 100, 140.0])])
    cdf_NA = cdf.quantize(Regression().predict(((ages - 40) / 20)[:, None]).age_probs_NA.numpy())
    expected_N = ages.clamp(0, 100).numpy()
    assert np.abs(cdf.median_age(cdf_NA) - expected_N).max() < 0.001
    assert np.abs(cdf.mean_age(cdf_NA) - expected_N).max() < 0.09
    assert np.abs(cdf.mode_age(cdf_NA) - expected_N).max() < 0.501
    whole = np.isin(expected_N, np.arange(101))
    assert whole.sum() > 30
    np.testing.assert_allclose(cdf.mean_age(cdf_NA)[whole], expected_N[whole], atol=1e-4)


def test_regression_starts_around_the_age_of_40():
    head = Regression().build_head(encoder_of(512), (64,), 0.0)
    assert head[-1].bias.item() == 0


# ----------------------------------------------------------------------------------------------------------------------
# ordinal


def random_logits(num_images=6, seed=0):
    return torch.randn(num_images, 100, generator=torch.Generator().manual_seed(seed)) * 2


def exact_labels(*ages):
    return batch_of(*((age, age + 1, -1) for age in ages))


AGES = (0, 1, 34, 50, 99, 100)


def test_coral_agrees_with_its_authors():
    logits_NK, levels_NK = random_logits(), levels_from_labelbatch(AGES, num_classes=101)
    loss_N, _ = Ordinal().loss(logits_NK, exact_labels(*AGES))
    torch.testing.assert_close(loss_N, coral_loss(logits_NK, levels_NK, reduction=None) / 100)
    weight_K = torch.rand(100, generator=torch.Generator().manual_seed(1))
    loss_N, _ = Ordinal(rank_weights=tuple(weight_K.tolist())).loss(logits_NK, exact_labels(*AGES))
    torch.testing.assert_close(loss_N, coral_loss(logits_NK, levels_NK, weight_K, reduction=None) / 100)


def test_corn_agrees_with_its_authors():
    logits_NK = random_logits()
    loss_N, _ = Ordinal(loss_name="corn").loss(logits_NK, exact_labels(*AGES))
    num_questions = sum(min(age + 1, 100) for age in AGES)  # theirs is the mean over all questions that are asked
    theirs = corn_loss(logits_NK, torch.tensor(AGES), num_classes=101) * num_questions
    torch.testing.assert_close(loss_N.sum() * 100, theirs)


def test_decoded_ages_agree_with_the_authors():
    for loss_name, logits_NK in (("coral", random_logits().sort(dim=1, descending=True).values),
                                 ("corn", random_logits() + 4)):  # fmt: skip
        probs_NA = Ordinal(loss_name=loss_name).predict(logits_NK).age_probs_NA
        is_reached_NK = 1 - probs_NA.cumsum(dim=1)[:, :-1] > 0.5
        theirs = corn_label_from_logits(logits_NK) if loss_name == "corn" else proba_to_label(logits_NK.sigmoid())
        assert is_reached_NK.sum(dim=1).tolist() == theirs.tolist()


@pytest.mark.parametrize(
    ("low", "high", "yes", "no"),
    [
        (34, 35, range(1, 35), range(35, 101)),
        (34.5, 35.5, range(1, 35), range(35, 101)),
        (12.3, 13.3000004, range(1, 13), range(13, 101)),
        (25, 50, range(1, 26), range(50, 101)),
        (0, 13, range(0), range(13, 101)),
        (60, INF, range(1, 61), range(0)),
        (0, INF, range(0), range(0)),
        (100, 101, range(1, 101), range(0)),
        (110, 111, range(1, 101), range(0)),
        (90, 120, range(1, 91), range(0)),
    ],
)
def test_coral_asks_only_what_a_label_answers(low, high, yes, no):
    logits_NK = random_logits(1)
    loss_N, weight_N = Ordinal().loss(logits_NK, batch_of((low, high, -1)))
    log_yes_K, log_no_K = nn.functional.logsigmoid(logits_NK[0]), nn.functional.logsigmoid(-logits_NK[0])
    expected = -sum(float(log_yes_K[k - 1]) for k in yes) - sum(float(log_no_K[k - 1]) for k in no)
    assert loss_N.item() == pytest.approx(expected / 100, abs=1e-5)
    assert weight_N.item() == 1


@pytest.mark.parametrize(
    ("low", "high", "bins"),
    [
        (34, 35, [34]),
        (34.5, 35.5, [34]),
        (0, 1, [0]),
        (100, 101, [100]),
        (110, 111, [100]),
        (25, 50, range(25, 50)),
        (0, 13, range(13)),
        (60, INF, range(60, 101)),
        (0, INF, range(101)),
        (90, 120, range(90, 101)),
    ],
)
def test_corn_costs_minus_the_log_of_the_labels_probability(low, high, bins):
    logits_NK, task = random_logits(1) + 4, Ordinal(loss_name="corn")
    loss_N, weight_N = task.loss(logits_NK, batch_of((low, high, -1)))
    probability = task.predict(logits_NK.double()).age_probs_NA[0, list(bins)].sum()
    assert loss_N.item() * 100 == pytest.approx(-math.log(probability), rel=1e-3, abs=1e-4)
    assert weight_N.item() == 1


def test_rank_weights_weigh_the_questions():
    """Undecided answers cost ln 2. Only 26 and 50 count: the age 25 says no to both, [25, 50) and 49 say no to 50."""
    weights = [0.0] * 100
    weights[26 - 1], weights[50 - 1] = 1.0, 3.0
    labels = batch_of((25, 26, -1), (25, 50, -1), (49, 50, -1))
    coral_N, _ = Ordinal(rank_weights=tuple(weights)).loss(torch.zeros(3, 100), labels)
    assert (coral_N * 100 / math.log(2)).tolist() == pytest.approx([4, 3, 4])
    corn_N, _ = Ordinal(loss_name="corn", rank_weights=tuple(weights)).loss(torch.zeros(3, 100), labels)
    assert (corn_N * 100 / math.log(2)).tolist() == pytest.approx([1, 0, 4], abs=1e-4)  # 1 - 2^-25 is as good as sure


@pytest.mark.parametrize("loss_name", Ordinal.losses)
def test_an_ordinal_head_is_born_with_a_sensible_distribution(loss_name):
    torch.manual_seed(0)
    head = Ordinal(loss_name=loss_name).build_head(encoder_of(256), (), 0.0)
    probs_NA = Ordinal(loss_name=loss_name).predict(head(torch.zeros(1, 256))).age_probs_NA
    reached_A = 1 - probs_NA[0].cumsum(0)
    for k in (1, 20, 40, 100):
        assert reached_A[k - 1].item() == pytest.approx(1 / (1 + math.exp((k - 40) / 10)), abs=1e-4)
    assert cdf.median_age(cdf.quantize(probs_NA.detach().numpy()))[0] == pytest.approx(39.5, abs=0.1)


def test_coral_shares_one_weight_vector():
    head = Ordinal().build_head(encoder_of(24), (), 0.2)
    assert sum(parameter.numel() for parameter in head.parameters()) == 24 + 100
    logits_NK = head.eval()(torch.randn(2, 24))
    steps_NK = logits_NK.diff(dim=1)
    torch.testing.assert_close(steps_NK, torch.full_like(steps_NK, -0.1))


@pytest.mark.parametrize("loss_name", Ordinal.losses)
def test_decoded_probabilities_never_rise_with_the_threshold(loss_name):
    probs_NA = Ordinal(loss_name=loss_name).predict(random_logits(50) * 3).age_probs_NA
    assert (probs_NA >= 0).all()
    torch.testing.assert_close(probs_NA.sum(dim=1), torch.ones(50))


# ----------------------------------------------------------------------------------------------------------------------
# reconstruction


class Autoencoder(nn.Module):
    num_features = 8

    def build_decoder(self):
        return nn.Sequential(nn.ConvTranspose2d(8, 3, 4, stride=4))


def test_reconstruction_decodes_maps_to_pixels_and_needs_no_label():
    task, encoder = build_task("reconstruction", GROUPS), Autoencoder()
    outputs = task.build_head(encoder, (512,), 0.5)(torch.randn(4, 8, 2, 2))
    target_NCHW = outputs.detach() + torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None, None, None]
    loss_N, weight_N = task.loss(outputs.bfloat16(), {"target": target_NCHW, **batch_of(*LABELS)})
    assert loss_N.dtype == torch.float32
    torch.testing.assert_close(loss_N, torch.tensor([0.0, 1.0, 4.0, 9.0]), atol=0.02, rtol=0)
    assert weight_N.tolist() == [1, 1, 1, 1]
    loss_N, weight_N = task.loss(outputs.to("meta"), {"target": target_NCHW.to("meta")})
    assert loss_N.is_meta
    assert weight_N.is_meta


def test_reconstruction_needs_a_decoder_and_predicts_no_age():
    task = build_task("reconstruction", GROUPS)
    with pytest.raises(ValueError, match=r"^reconstruction needs an encoder with a decoder: conv_autoencoder$"):
        task.build_head(encoder_of(8), (), 0.0)
    with pytest.raises(AssertionError, match="predicts no age"):
        task.predict(torch.zeros(1, 3, 8, 8))


# ----------------------------------------------------------------------------------------------------------------------
# all that learn ages


@pytest.mark.parametrize(("name", "loss"), [pair for pair in AGE_TASK_LOSSES if pair[0] != "classification"])
def test_a_toy_problem_is_learned_from_ages_and_ranges_together(name, loss):
    torch.manual_seed(0)
    task = build_task(name, GROUPS, loss)
    age_N = torch.arange(0.0, 101.0, 4.0)
    decade_N, is_exact_N = (age_N / 10).floor() * 10, torch.arange(len(age_N)) % 3 > 0
    low_N, high_N = age_N.where(is_exact_N, decade_N), (age_N + 1).where(is_exact_N, decade_N + 10)
    features_NF = torch.exp(-(((age_N[:, None] - torch.arange(0.0, 101.0, 10.0)) / 10) ** 2))
    head = task.build_head(encoder_of(11), (), 0.0)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.3)
    for _ in range(100):
        optimizer.zero_grad()
        loss_N, weight_N = task.loss(head(features_NF), {"age_low": low_N, "age_high": high_N})
        (loss_N.sum() / weight_N.sum()).backward()
        optimizer.step()
    probs_NA = task.predict(head(features_NF).detach()).age_probs_NA
    predicted_N = torch.from_numpy(cdf.median_age(cdf.quantize(probs_NA.numpy())))
    assert (predicted_N - age_N)[is_exact_N].abs().mean() < 2
    missed_N = torch.maximum(low_N - predicted_N, predicted_N - (high_N - 1)).clamp(min=0)
    assert missed_N.max() < 4
