"""How old: a hundred yes-or-no questions, "at least k years old?" for k = 1..100.

Exact ages and age ranges train it together; class names without bounds cannot. Legend of shapes: N images, K = 100
thresholds, A = 101 age bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agescale.ages.groups import MAX_AGE, AgeGroups
from agescale.models.tasks.heads import Reads, dense_head
from agescale.models.tasks.labels import AgeLabels, check_ages
from agescale.models.tasks.prediction import Prediction

NUM_THRESHOLDS = MAX_AGE


@dataclass(frozen=True)
class Ordinal:
    """Binary cross-entropy at each threshold. A head is born with P(age >= k) around sigmoid((40 - k) / 10).

    ``coral`` (Cao, Mirjalili, Raschka, "Rank consistent ordinal regression for neural networks with application to age
    estimation", 2020): logit k of P(age >= k) is one shared number plus bias k. An exact age answers all questions; a
    range [25, 50) answers those up to 25 with yes and those from 50 on with no, and the others are left out.

    ``corn`` (Shi, Cao, Raschka, "Deep neural networks for rank-consistent ordinal regression based on conditional
    probabilities", 2021): logit k is that of P(age >= k | age >= k - 1), asked only of those who are k - 1 or older. So
    the sum over an exact age's questions is -log P(age); a range costs -log P(25 <= age < 50) in the same way. Asking
    only the questions that a range answers would lose its upper end: nobody in [25, 50) is known to be 49 or older.

    An image's loss is the sum over its questions divided by all K, and not by those it answers: a label that says less
    pulls less, and each answer weighs the same whoever gives it. ``rank_weights`` (K of them, see
    ``weighting.rank_weights``) multiply the questions' losses; a corn range's upper end counts as the question that it
    is the answer to, 50.

    Undecided logits cost ln 2 an answer: [25, 50) gives 25 + 51 of them. With corn, the age 34 is 35 answers:

    >>> nan = float("nan")
    >>> batch = {"age_low": torch.tensor([34, 25, nan]), "age_high": torch.tensor([35, 50, nan])}
    >>> loss_N, weight_N = Ordinal().loss(torch.zeros(3, 100), batch)
    >>> [round(loss, 3) for loss in loss_N.tolist()], weight_N.tolist()
    ([0.693, 0.527, 0.0], [1.0, 1.0, 0.0])
    >>> [round(loss, 3) for loss in Ordinal(loss_name="corn").loss(torch.zeros(3, 100), batch)[0].tolist()]
    [0.243, 0.173, 0.0]
    """

    age_groups: AgeGroups | None = None
    loss_name: str = "coral"
    rank_weights: tuple[float, ...] = ()
    losses: ClassVar[tuple[str, ...]] = ("coral", "corn")
    reads: ClassVar[Reads] = "features"
    predicts_age: ClassVar[bool] = True
    metric: ClassVar[str] = "mae"

    def __post_init__(self) -> None:
        assert len(self.rank_weights) in (0, NUM_THRESHOLDS), len(self.rank_weights)

    def build_head(self, encoder: nn.Module, head_sizes: tuple[int, ...], dropout: float) -> nn.Module:
        if self.loss_name == "coral":
            return dense_head(encoder, head_sizes, dropout, 1, bias=False).append(Thresholds())
        head = dense_head(encoder, head_sizes, dropout, NUM_THRESHOLDS)
        reached_K = _first_logits().sigmoid()
        conditional_K = reached_K / torch.cat([torch.ones(1), reached_K[:-1]])
        with torch.no_grad():
            cast(nn.Linear, head[-1]).bias.copy_(conditional_K.logit())
        return head

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Mean loss a threshold in nats per image (N,), and 1 for images with an age or a range, 0 for the others."""
        labels, logits_NK = AgeLabels.of(batch), outputs.float()
        weight_K = torch.tensor(self.rank_weights or (1.0,) * NUM_THRESHOLDS, device=outputs.device)
        is_outside_NA = labels.outside_bins()
        is_yes_NK = is_outside_NA[:, :-1].int().cumprod(dim=1).bool()  # age bins 0..k-1 are all left out
        is_no_NK = is_outside_NA[:, 1:].int().flip(1).cumprod(dim=1).flip(1).bool()  # and so are k..100
        log_yes_NK, log_no_NK = F.logsigmoid(logits_NK), F.logsigmoid(-logits_NK)
        sum_N = -(weight_K * torch.where(is_yes_NK, log_yes_NK, 0.0)).sum(dim=1)
        if self.loss_name == "coral":
            sum_N = sum_N - (weight_K * torch.where(is_no_NK, log_no_NK, 0.0)).sum(dim=1)
        else:
            # log P(age = a | age >= low), for the ages a that the label admits
            log_reached_NA = F.pad(torch.where(is_yes_NK, 0.0, log_yes_NK).cumsum(dim=1), (1, 0))
            log_probs_NA = log_reached_NA + F.pad(log_no_NK, (0, 1))
            end_N = (NUM_THRESHOLDS - is_no_NK.sum(dim=1)).clamp(max=NUM_THRESHOLDS - 1)
            sum_N = sum_N - weight_K[end_N] * log_probs_NA.masked_fill(is_outside_NA, -torch.inf).logsumexp(dim=1)
        return torch.where(labels.is_labelled_N, sum_N / NUM_THRESHOLDS, 0.0), labels.is_labelled_N.float()

    def predict(self, outputs: Tensor) -> Prediction:
        """P(age = a) = P(age >= a) - P(age >= a + 1), made never to rise with age first."""
        logits_NK = outputs.float()
        if self.loss_name == "coral":
            reached_NK = _least_so_far(logits_NK.sigmoid())
        else:
            reached_NK = _least_so_far(F.logsigmoid(logits_NK).cumsum(dim=1).exp())  # a GPU's sums may rise by rounding
        return Prediction(age_probs_NA=F.pad(reached_NK, (1, 0), value=1.0) - F.pad(reached_NK, (0, 1)))

    def check_labels(self, num_exact: int, num_range: int, num_group: int, num_unlabelled: int) -> None:
        check_ages("ordinal", num_exact, num_range, num_group, num_unlabelled)


class Thresholds(nn.Module):
    """CORAL's last layer: one shared number (N, 1) to logits (N, K), by a bias for each threshold.

    The biases begin in the order in which training, as the paper proves, leaves them: falling.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(_first_logits())

    def forward(self, shared_N1: Tensor) -> Tensor:
        return shared_N1 + self.bias


def _least_so_far(probs_NK: Tensor) -> Tensor:
    """``cummin``, by an operation that exported models have, too.

    >>> _least_so_far(torch.tensor([[0.75, 0.5, 0.625, 0.25]])).tolist()
    [[0.75, 0.5, 0.5, 0.25]]
    """
    window = probs_NK.shape[1]
    padded_N1L = F.pad(-probs_NK[:, None], (window - 1, 0), value=-1.0)
    return -F.max_pool1d(padded_N1L, window, stride=1)[:, 0]


def _first_logits() -> Tensor:
    """Logits (K,) of P(age >= k) before anything is learned: ages around 40, with a spread of 18 years."""
    return (40 - torch.arange(1.0, NUM_THRESHOLDS + 1)) / 10
