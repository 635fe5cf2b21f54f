"""Losses against sums worked out one pair at a time, and their gradients by differences."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from dipair_index.training.losses import LOSSES, vector_loss
from dipair_index.training.settings import GROUP_LOSSES, LOSS_NAMES

NAN = float("nan")
STUDENT = [[0.5, -1.0, 9.0], [2.0, 3.0, 1.0]]
TEACHER = [[1.0, 0.0, NAN], [-2.0, 0.5, 1.0]]
KNOWN = [(0.5, 1.0), (-1.0, 0.0), (2.0, -2.0), (3.0, 0.5), (1.0, 1.0)]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def loss_of(name: str, student: object, teacher: object, temperature: float = 1.0) -> float:
    return LOSSES[name](torch.tensor(student), torch.tensor(teacher), temperature).item()


def test_binary_is_cross_entropy_against_the_soft_label_of_known_pairs() -> None:
    expected = -sum(
        sigmoid(z / 2) * math.log(sigmoid(s)) + (1 - sigmoid(z / 2)) * math.log(1 - sigmoid(s))
        for s, z in KNOWN
    ) / len(KNOWN)
    assert loss_of("binary", STUDENT, TEACHER, 2.0) == pytest.approx(expected, rel=1e-5)


def test_regression_is_the_squared_error_of_the_logits() -> None:
    expected = sum((s - z / 2) ** 2 for s, z in KNOWN) / len(KNOWN)
    assert loss_of("regression", STUDENT, TEACHER, 2.0) == pytest.approx(expected, rel=1e-5)


def test_multi_class_is_cross_entropy_against_the_teachers_distribution() -> None:
    """Two queries with two passages each and three classes; one passage has no label."""
    student = [[[0.5, -1.0, 2.0], [9.0, 9.0, 0.0]], [[1.0, 1.0, 0.0], [0.0, -2.0, 3.0]]]
    teacher = [[[1.0, 0.0, 4.0], [NAN] * 3], [[-2.0, 0.5, 1.0], [3.0, 3.0, 3.0]]]
    expected = 0.0
    for row, place in ((0, 0), (1, 0), (1, 1)):
        target = softmax([z / 2 for z in teacher[row][place]])
        shares = zip(target, softmax(student[row][place]), strict=True)
        expected -= sum(wanted * math.log(share) for wanted, share in shares) / 3
    assert loss_of("multi-class", student, teacher, 2.0) == pytest.approx(expected, rel=1e-5)


def test_margin_mse_is_the_squared_error_of_the_differences_inside_a_query() -> None:
    pairs = [
        (STUDENT[row], TEACHER[row], two) for row in (0, 1) for two in combinations(range(3), 2)
    ]
    known = [(s, z, i, j) for s, z, (i, j) in pairs if not math.isnan(z[i] + z[j])]
    assert len(known) == 4
    expected = sum(((s[i] - s[j]) - (z[i] - z[j]) / 2) ** 2 for s, z, i, j in known) / 4
    assert loss_of("margin-mse", STUDENT, TEACHER, 2.0) == pytest.approx(expected, rel=1e-5)


def test_listwise_is_the_divergence_over_each_querys_known_passages() -> None:
    expected = 0.0
    for own, others in (([0.5, -1.0], [1.0, 0.0]), ([2.0, 3.0, 1.0], [-2.0, 0.5, 1.0])):
        shares = zip(softmax([z / 2 for z in others]), softmax(own), strict=True)
        expected += sum(target * math.log(target / guess) for target, guess in shares)
    assert loss_of("listwise", STUDENT, TEACHER, 2.0) == pytest.approx(expected / 2, rel=1e-5)


def test_both_is_the_sum() -> None:
    parts = [loss_of(name, STUDENT, TEACHER) for name in ("binary", "listwise")]
    assert loss_of("both", STUDENT, TEACHER) == pytest.approx(sum(parts))


def test_the_command_knows_the_losses_by_their_names() -> None:
    assert tuple(LOSSES) == LOSS_NAMES
    assert set(GROUP_LOSSES) <= set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_small_differences_and_nought_without_a_label(name: str) -> None:
    random = np.random.default_rng(0)
    shape = (3, 4, 5) if name == "multi-class" else (3, 4)
    values, labels = random.normal(size=(2, *shape))
    labels[0, 1] = NAN
    student = torch.tensor(values, requires_grad=True)
    LOSSES[name](student, torch.tensor(labels), 1.5).backward()
    assert student.grad is not None
    gradient, step = student.grad.numpy(), 1e-6
    for place in np.ndindex(shape):
        moved = np.stack([values, values])
        moved[(0, *place)] += step
        moved[(1, *place)] -= step
        up, down = (LOSSES[name](torch.tensor(m), torch.tensor(labels), 1.5).item() for m in moved)
        assert gradient[place] == pytest.approx((up - down) / (2 * step), abs=1e-7)
    assert (gradient[0, 1] == 0).all()
    assert np.abs(gradient).max() > 0.01


@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_labels_costs_nothing(name: str) -> None:
    student = torch.ones((2, 3, 4) if name == "multi-class" else (2, 3), requires_grad=True)
    loss = LOSSES[name](student, torch.full_like(student, NAN), 1.0)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


@pytest.mark.parametrize("name", ["listwise", "margin-mse"])
def test_a_student_that_is_shifted_has_no_loss_that_compares_and_no_gradient(name: str) -> None:
    teacher = torch.tensor([[1.0, -3.0, NAN]])
    student = torch.tensor([[2.0, -2.0, 5.0]], requires_grad=True)
    loss = LOSSES[name](student, teacher, 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_vector_loss_sets_other_queries_passages_against_the_own_ones() -> None:
    """Two queries with three passages each; the second passage of the first has no label."""
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    first_passages = [[0.6, 0.8], [1.0, 0.0], [-1.0, 0.0]]
    passages = torch.tensor([first_passages, [[0.0, 1.0], [0.8, 0.6], [0.0, -1.0]]])
    teacher = torch.tensor([[3.0, NAN, 2.0], [0.0, 1.0, -1.0]])
    # own two with a label, then the other query's three
    first = softmax([5 * 0.6, 5 * -1.0, 5 * 0.0, 5 * 0.8, 5 * 0.0])
    # the other's three, then own three
    second = softmax([5 * 0.8, 5 * 0.0, 5 * 0.0, 5 * 1.0, 5 * 0.6, 5 * -1.0])
    expected = 0.0
    for target, shares in (
        (softmax([3.0, 2.0]), first[:2]),
        (softmax([0.0, 1.0, -1.0]), second[3:]),
    ):
        expected -= sum(t * math.log(share) for t, share in zip(target, shares, strict=True))
    loss = vector_loss(queries, passages, teacher, scale=5.0)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)


def test_vector_loss_leaves_out_queries_with_one_label() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    passages = torch.tensor([[[0.6, 0.8], [1.0, 0.0]], [[0.0, 1.0], [0.8, 0.6]]])
    # the label says that the passage is irrelevant
    loss = vector_loss(queries, passages, torch.tensor([[-9.2, NAN], [0.0, 1.0]]), scale=5.0)
    shares = softmax([5 * 0.8, 5 * 0.0, 5 * 1.0, 5 * 0.6])
    target = softmax([0.0, 1.0])
    expected = -(target[0] * math.log(shares[2]) + target[1] * math.log(shares[3]))
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert queries.grad is not None
    assert (queries.grad[0] == 0).all()
    assert queries.grad[1].abs().max() > 0.1
    for nothing in ([[-9.2, NAN], [1.0, NAN]], [[NAN, NAN], [NAN, NAN]]):
        queries.grad = None
        loss = vector_loss(queries, passages, torch.tensor(nothing))
        loss.backward()
        assert loss.item() == 0
        assert (queries.grad == 0).all()
