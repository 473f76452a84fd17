"""Curvature: every operator against a dense float64 oracle, what is refused, what is left as it was, and merges."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.functional import jacobian as jacobian_of

from curved import BATCHES, CODES, TARGETS, X, at, dense, flat, network, normal, rotated, seeded
from strandscope.errors import InputError, TrustError
from strandscope.statistics.curvature import (
    NoiseSums,
    edge,
    gauss_newton,
    gradient_noise,
    hessian,
    hutch_plus_plus,
    merged,
    of_matrix,
    spectral_density,
    top_eigenvalues,
    trace,
    without,
)

# --- operators against dense ones ---


@pytest.mark.parametrize(
    "loss", [lambda z: F.cross_entropy(z, CODES), lambda z: F.mse_loss(z, TARGETS), lambda z: z[:, 0].mean()]
)
def test_a_hessian_is_that_of_another_road(loss):
    net = network(nn.Tanh())
    operator = hessian(lambda: loss(net(X)), net)
    assert operator.size == 43
    torch.testing.assert_close(operator.dense(), dense(net, loss), rtol=1e-10, atol=1e-12)


def test_batches_count_each_row_once_and_parts_merge_to_the_whole():
    net = network(nn.Tanh())
    operator = hessian(lambda b: F.cross_entropy(net(b[0]), b[1], reduction="none"), net, BATCHES)
    truth = dense(net, lambda z: F.cross_entropy(z, CODES))
    assert (operator.rows, [part.rows for part in operator.parts]) == (14, [5, 8, 1])
    torch.testing.assert_close(operator.dense(), truth, rtol=1e-10, atol=1e-12)
    first, *others = operator.parts
    torch.testing.assert_close(merged(first, merged(*others)).dense(), truth, rtol=1e-10, atol=1e-12)
    left = hessian(lambda b: F.cross_entropy(net(b[0]), b[1], reduction="none"), net, BATCHES[1:])
    torch.testing.assert_close(without(operator, 0).dense(), left.dense(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("by", ["function", "loader"])
def test_batches_come_from_functions_and_loaders_too(by):
    net = network(nn.Tanh())
    rows = torch.utils.data.TensorDataset(X, CODES)
    batches = (lambda: iter(BATCHES)) if by == "function" else torch.utils.data.DataLoader(rows, batch_size=4)
    before = torch.get_rng_state()
    operator = hessian(lambda b: F.cross_entropy(net(b[0]), b[1], reduction="none"), net, batches)
    torch.testing.assert_close(operator.dense(), dense(net, lambda z: F.cross_entropy(z, CODES)), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(operator.parts[1] @ flat(net), operator.parts[1].dense() @ flat(net))
    assert torch.equal(torch.get_rng_state(), before)  # a loader draws from it at every pass


def test_gauss_newton_of_both_losses():
    net = network(nn.Tanh())
    jacobian = jacobian_of(lambda vector: at(net, vector), flat(net))
    squares = gauss_newton(lambda: net(X), lambda z: (z - TARGETS).square().sum(1), net)
    torch.testing.assert_close(squares.dense(), 2 * torch.einsum("ncp,ncq->pq", jacobian, jacobian) / 14)
    p = net(X).detach().softmax(1)
    inner = torch.diag_embed(p) - p[:, :, None] * p[:, None]
    fisher = torch.einsum("ncp,ncd,ndq->pq", jacobian, inner, jacobian) / 14
    entropy = gauss_newton(lambda b: net(b[0]), lambda z, b: F.cross_entropy(z, b[1], reduction="none"), net, BATCHES)
    torch.testing.assert_close(entropy.dense(), fisher)
    torch.testing.assert_close(merged(*entropy.parts).dense(), fisher)


def test_a_subset_is_a_block_of_the_whole():
    net = network(nn.Tanh())
    whole = hessian(lambda: F.cross_entropy(net(X), CODES), net).dense()
    torch.testing.assert_close(hessian(lambda: F.cross_entropy(net(X), CODES), net, only=["0"]).dense(), whole[:25, :25])
    torch.testing.assert_close(hessian(lambda: F.cross_entropy(net(X), CODES), net, only=["2.bias"]).dense(), whole[40:, 40:])


def test_parameters_of_one_device_are_differentiated_where_others_lie_elsewhere():
    w = {"a": normal(3), "b": torch.empty(2, device="meta")}
    operator = hessian(lambda w: (w["a"] ** 2).sum(), w, only=["a"])
    torch.testing.assert_close(operator.dense(), 2 * torch.eye(3).double())
    with pytest.raises(InputError, match="several devices"):
        hessian(lambda w: (w["a"] ** 2).sum(), w)
    with pytest.raises(InputError, match="head is not smooth"):
        hessian(lambda w: (X @ torch.cat([w["a"], w["a"][:1]]) - 1).abs(), w, only=["a"])


class Across(torch.autograd.Function):
    """Weights elsewhere have a part in the graph, and none in the value."""

    @staticmethod
    def forward(ctx, here, elsewhere):
        ctx.elsewhere = elsewhere.shape, elsewhere.device
        return here.clone()

    @staticmethod
    def backward(ctx, slope):
        shape, device = ctx.elsewhere
        return slope, slope.new_zeros(shape, device=device)


def test_the_head_is_proved_by_weights_of_one_device_where_it_lies_on_two():
    w = {"b": torch.empty(2, device="meta", dtype=torch.float64), "a": normal(3)}
    operator = hessian(lambda w: (Across.apply(w["a"], w["b"]) ** 2).sum(), w, only=["a"])
    torch.testing.assert_close(operator.dense(), 2 * torch.eye(3).double())


def test_layer_norm_agrees_with_differences_of_the_gradient():
    """`torch.func.hessian` does not (torch 2.13): second derivatives by a LayerNorm's weights come out wrong there."""
    net = network(nn.LayerNorm(5), nn.GELU())
    operator = hessian(lambda: F.cross_entropy(net(X), CODES), net)
    v, step = normal(operator.size, seed=3), 1e-5

    def gradient(vector):
        return jacobian_of(lambda w: F.cross_entropy(at(net, w), CODES), vector)

    change = (gradient(flat(net) + step * v) - gradient(flat(net) - step * v)) / (2 * step)
    torch.testing.assert_close(operator @ v, change, rtol=1e-6, atol=1e-8)


def test_attention_has_a_second_derivative():
    embed, into = nn.Embedding(6, 4).double(), nn.Linear(4, 12).double()
    net = nn.ModuleDict({"embed": embed, "into": into})
    words = torch.arange(12).view(2, 6) % 5

    def loss():
        q, k, v = into(embed(words))[:, None].chunk(3, -1)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)[:, 0]
        return F.cross_entropy((mixed @ embed.weight.T)[:, :-1].flatten(0, 1), words[:, 1:].flatten())

    matrix = hessian(loss, net).dense()
    assert float((matrix - matrix.T).abs().max()) == 0 and float(matrix.norm()) > 0.1


def test_a_given_matrix_and_mappings_of_tensors():
    matrix = rotated([3.0, 1, -2])
    w = {"a": normal(2), "b": normal(1, seed=1)}
    operator = hessian(lambda w: (v := torch.cat([w["a"], w["b"]])) @ matrix @ v / 2, w)
    torch.testing.assert_close(operator.dense(), matrix)
    torch.testing.assert_close(of_matrix(matrix) @ normal(3, 2), matrix @ normal(3, 2))
    assert not w["a"].requires_grad


# --- nothing is changed ---


@pytest.mark.parametrize("training", [False, True])
def test_weights_buffers_mode_gradients_and_random_states_are_what_they_were(training):
    net = network(nn.BatchNorm1d(5), nn.Tanh(), nn.Dropout(0.0)).double()
    net.train(training)
    net[1].eval()
    net[0].weight.requires_grad_(False)
    state, modes = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()]
    versions = [p._version for p in net.parameters()]
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002

    def loss(b):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002 (drawn, and not used)
        return F.cross_entropy(net(b[0]), b[1], reduction="none")

    for make in (
        lambda: hessian(loss, net, BATCHES),
        lambda: hessian(lambda: loss(BATCHES[0]), net),
        lambda: gauss_newton(lambda b: net(b[0]) + 0 * loss(b)[:, None], lambda z, b: z.square().sum(1), net, BATCHES),
    ):
        operator = make()
        top_eigenvalues(operator, 2, generator=seeded())
        trace(operator, 4, generator=seeded())
        spectral_density(operator, generator=seeded(), probes=2, steps=3)
    gradient_noise(loss, net, BATCHES)
    assert all(torch.equal(state[name], now) for name, now in net.state_dict().items())
    assert [m.training for m in net.modules()] == modes and all(p.grad is None for p in net.parameters())
    assert [p._version for p in net.parameters()] == versions and not net[0].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # noqa: NPY002


# --- what is refused ---


def drawn(net):
    return lambda: F.mse_loss(net(X) + torch.rand(()), TARGETS)


class Counting(nn.Linear):
    """Changes a buffer whenever it is called, in eval mode too."""

    def __init__(self):
        super().__init__(5, 5)
        self.calls = nn.Buffer(torch.zeros(()))

    def forward(self, h):
        self.calls += 1
        return super().forward(h)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h):
        ctx.save_for_backward(h)
        return h.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


def test_what_does_not_repeat_itself_is_refused():
    drop, norm = network(nn.Dropout(0.5)), network(nn.BatchNorm1d(5).double())
    net, number = network(nn.Tanh()), iter(range(100))
    before = torch.get_rng_state()
    for call, error, words in (
        (lambda: hessian(lambda: F.mse_loss(drop(X), TARGETS), drop), InputError, r"1 \(Dropout\) is in train mode and drops"),
        (lambda: gauss_newton(lambda: drop(X), lambda z: z.square().sum(1), drop), InputError, "drops units at random"),
        (lambda: gradient_noise(lambda b: drop(b[0]).square().sum(1), drop, BATCHES), InputError, "drops units at random"),
        (lambda: hessian(lambda: F.mse_loss(norm(X), TARGETS), norm), InputError, "running statistics at every pass"),
        (
            lambda: hessian(lambda: F.mse_loss(F.dropout(net(X)), TARGETS), net),
            TrustError,
            "is not deterministic; look for dropout",
        ),
        (lambda: hessian(drawn(net), net), TrustError, "two passes over batch 0 gave"),
        (lambda: hessian(lambda: F.mse_loss(net(X), TARGETS + next(number)), net), TrustError, "not deterministic"),
        (
            lambda: hessian(lambda b: net(b[0]).square().sum(1), net, lambda: BATCHES[:: (-1) ** next(number)]),
            TrustError,
            "drawn or shuffled anew",
        ),
        (lambda: hessian(lambda b: net(b[0]).square().sum(1), net, iter(BATCHES)), InputError, "empty after one pass"),
    ):
        with pytest.raises(error, match=words):
            call()
    assert torch.equal(torch.get_rng_state(), before)
    assert float(norm[1].num_batches_tracked) == 0


def test_a_buffer_that_a_pass_changes_is_put_back_and_said():
    net = network(Counting().double())
    with pytest.raises(InputError, match=r"a pass changes its buffer '1.calls' \(put back now\)"):
        hessian(lambda: F.mse_loss(net(X), TARGETS), net)
    assert float(net[1].calls) == 0


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (lambda z: (z - TARGETS).abs().mean(), "100% of the change of the gradient as 2.weight, 2.bias move comes from kinks"),
        (lambda z: (1 - z[:, 0]).clamp_min(0).mean(), "head is not smooth"),
        (lambda z: z.max(1).values.mean(), "head is not smooth"),
        (lambda z: F.mse_loss(z.relu(), TARGETS.abs()), "head is not smooth"),
        (lambda z: F.l1_loss(z, 50 * TARGETS), "head is not smooth"),  # no kink within reach of a step as long as the weights
        (lambda z: (z * z.square().detach()).mean(), "a part that is detached"),
        (lambda z: (z.argmax(1) == CODES).double().mean(), "does not depend on the parameters through a graph"),
        (lambda z: z.round().square().mean(), "constant in pieces"),
        (lambda z: torch.cdist(z, TARGETS, 3.0).mean(), "a part of it has no second derivative"),
        (lambda z: Once.apply(z).square().mean(), "100% of the change of the gradient"),  # autograd gives zero in silence
    ],
)
def test_a_head_without_a_hessian_is_refused(head, words):
    net = network(nn.ReLU())
    with pytest.raises(InputError, match=words):
        hessian(lambda: head(net(X)), net)


@pytest.mark.parametrize(
    "head",
    [
        lambda z: F.cross_entropy(z, CODES),
        lambda z: F.mse_loss(z, TARGETS),
        lambda z: z[:, 0].mean(),  # linear in the last weights, and not in all
        lambda z: F.huber_loss(z, TARGETS, delta=0.3),
        lambda z: (1 - z[:, 0]).clamp_min(0).square().mean(),
        lambda z: (z - z.max(1, keepdim=True).values).exp().sum(1).log().mean() + z.max(1).values.mean(),  # kinks that cancel
        lambda z: F.cross_entropy(z[:1], CODES[:1]),
        lambda z: -F.softplus(z).log().mean(),
    ],
)
def test_smooth_heads_on_a_network_of_relus_are_let_through(head):
    net = network(nn.ReLU())
    operator = hessian(lambda: head(net(X)), net)
    torch.testing.assert_close(operator.dense(), dense(net, head), rtol=1e-9, atol=1e-11)


def test_bad_arguments_are_named():
    net, w = network(nn.Tanh()), normal(3)
    operator = of_matrix(rotated([3.0, 1, -2]))
    for call, error, words in (
        (lambda: hessian(lambda: net(X), net), InputError, r"got shape \(14, 3\), wanted a scalar or \(n,\)"),
        (lambda: hessian(lambda b: net(b[0]).mean(), net, BATCHES), InputError, "so that every row counts once"),
        (lambda: hessian(lambda b: net(b[0]).mean(), net, []), InputError, "batches: got none"),
        (lambda: hessian(lambda: net(X * torch.nan).mean(), net), InputError, "holds a NaN or an infinity"),
        (lambda: hessian(lambda: 3.0, net), InputError, "got a float"),
        (lambda: hessian(lambda: network(seed=1)(X).square().mean(), net), InputError, "does not depend on|calls another module"),
        (lambda: hessian(lambda w: w.sum(), [w]), InputError, "parameters: got a list"),
        (lambda: hessian(lambda w: w.sum(), torch.arange(3)), InputError, "nothing to differentiate by"),
        (lambda: hessian(lambda: net(X).mean(), net, only=["3"]), InputError, "no parameter is called '3'"),
        (lambda: gauss_newton(lambda: net(X), lambda z: -z.square().sum(1), net), InputError, "not convex"),
        (
            lambda: gauss_newton(lambda: net(X), lambda z: z.abs().sum(1), net),
            InputError,
            "second derivative by the outputs is zero",
        ),
        (lambda: gauss_newton(lambda: net(X).detach(), lambda z: z.sum(1), net), InputError, "outputs: they do not depend"),
        (lambda: operator @ normal(4), InputError, r"got shape \(4,\), wanted \(3,\)"),
        (lambda: of_matrix(normal(3, 3)), InputError, "not symmetric"),
        (lambda: of_matrix(normal(3, 2)), InputError, "wanted a square matrix"),
        (lambda: merged(), InputError, "got none"),
        (lambda: merged(operator, of_matrix(torch.eye(2).double())), InputError, "size is 3 of one and 2"),
        (lambda: without(operator, 0), InputError, "in batches"),
        (lambda: top_eigenvalues(operator, 4, generator=seeded()), InputError, "wanted 1 to 3"),
        (lambda: top_eigenvalues(operator, 1, generator=seeded(), tolerance=0.0), InputError, "tolerance: got 0.0"),
        (lambda: top_eigenvalues(operator, 1, generator=seeded(), most=1), InputError, "wanted at least 2"),
        (lambda: top_eigenvalues(operator, 1, generator=seeded(), limit=48), InputError, "a basis of 3 vectors"),
        (lambda: trace(operator, 0, generator=seeded()), InputError, "probes: got 0"),
        (lambda: hutch_plus_plus(operator, 2, generator=seeded()), InputError, "wanted at least 3"),
        (lambda: spectral_density(operator, generator=seeded(), probes=0), InputError, "wanted at least 1 of each"),
        (lambda: spectral_density(operator, generator=seeded(), steps=1).moment(2), InputError, "wanted 1 to 1 from 1 steps"),
        (
            lambda: trace(operator, 2, generator=seeded()).merge(hutch_plus_plus(operator, 6, generator=seeded())),
            InputError,
            "how is",
        ),
        (lambda: edge(0.0), InputError, "step, momentum: got 0.0"),
        (lambda: NoiseSums(3).update(normal(2), 1), InputError, r"wanted \(3,\)"),
        (lambda: NoiseSums(3).result(), InputError, "wanted at least 2"),
        (lambda: NoiseSums(3).merge(NoiseSums(4)), InputError, "p is 3 here and 4 there"),
    ):
        with pytest.raises(error, match=words):
            call()


def test_a_product_that_is_not_a_number_is_not_trusted():
    """√ has no curvature at 0, and its gradient there is masked away: only the product shows it."""
    operator = hessian(lambda w: (w**4).sum(), normal(3))
    with pytest.raises(TrustError, match="holds a NaN or an infinity"):
        _ = operator @ torch.tensor([torch.inf, 0.0, 0.0], dtype=torch.float64)
