"""Losses against sums worked out one pair at a time."""

from __future__ import annotations

import math

import pytest
import torch

from dipair_index.losses import distillation_loss, vector_loss

NAN = float("nan")


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def test_binary_is_cross_entropy_against_the_soft_label_of_known_pairs() -> None:
    student, teacher, temperature = [[0.5, -1.0], [2.0, 3.0]], [[1.0, NAN], [-2.0, 0.5]], 2.0
    pairs = [(0.5, 1.0), (2.0, -2.0), (3.0, 0.5)]
    expected = -sum(
        sigmoid(z / temperature) * math.log(sigmoid(s))
        + (1 - sigmoid(z / temperature)) * math.log(1 - sigmoid(s))
        for s, z in pairs
    ) / len(pairs)
    loss = distillation_loss(
        "binary", torch.tensor(student), torch.tensor(teacher), temperature=temperature
    )
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_listwise_is_the_divergence_over_each_querys_known_passages() -> None:
    student = torch.tensor([[0.5, -1.0, 9.0], [2.0, 3.0, 1.0]])
    teacher = torch.tensor([[1.0, 0.0, NAN], [-2.0, 0.5, 1.0]])
    expected = 0.0
    for own, others in (([0.5, -1.0], [1.0, 0.0]), ([2.0, 3.0, 1.0], [-2.0, 0.5, 1.0])):
        shares = zip(softmax(others), softmax(own), strict=True)
        expected += sum(target * math.log(target / guess) for target, guess in shares)
    loss = distillation_loss("listwise", student, teacher)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)


def test_both_is_the_sum() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(3, 4), torch.randn(3, 4)
    parts = [distillation_loss(name, student, teacher).item() for name in ("binary", "listwise")]
    assert distillation_loss("both", student, teacher).item() == pytest.approx(sum(parts))


def test_a_perfect_student_has_no_listwise_loss_and_no_gradient() -> None:
    teacher = torch.tensor([[1.0, -3.0, NAN]])
    student = torch.tensor([[2.0, -2.0, 5.0]], requires_grad=True)  # shifted, which changes nothing
    loss = distillation_loss("listwise", student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-6


def test_vector_loss_sets_other_queries_passages_against_the_own_ones() -> None:
    """Two queries with two passages each; the second passage of the first has no label."""
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    passages = torch.tensor([[[0.6, 0.8], [1.0, 0.0]], [[0.0, 1.0], [0.8, 0.6]]])
    teacher = torch.tensor([[3.0, NAN], [0.0, 1.0]])
    first = softmax([5 * 0.6, 5 * 0.0, 5 * 0.8])  # own, then the other query's two
    second = softmax([5 * 0.8, 5 * 0.0, 5 * 1.0, 5 * 0.6])  # the other's two, then own two
    target = softmax([0.0, 1.0])
    expected = -math.log(first[0])
    expected -= target[0] * math.log(second[2]) + target[1] * math.log(second[3])
    loss = vector_loss(queries, passages, teacher, scale=5.0)
    assert loss.item() == pytest.approx(expected / 2, rel=1e-5)
