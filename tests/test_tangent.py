"""The tangent kernel, descent under it, and the catapult: theorems, blocks against the whole, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strandscope.errors import InputError
from strandscope.provenance import numpy_generator, torch_generator
from strandscope.standards import tangent as standards
from strandscope.standards.run import caught, run
from strandscope.standards.standard import Standard
from strandscope.statistics.tangent import (
    catapult,
    functional,
    kernel_descent,
    kernel_motion,
    mode_energies,
    pl_star,
    relu_kernel,
    spike_share,
    tangent_kernel,
    two_variable_map,
)


def normal(*shape: int, name: str = "x") -> Tensor:
    return torch.randn(*shape, generator=torch_generator(0, name), dtype=torch.float64)


def network() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 2)).eval()
    for name, value in module.named_parameters():
        value.data = normal(*value.shape, name=name).float()
    return module


@pytest.mark.parametrize("one", standards.STANDARDS, ids=lambda one: one.name)
def test_the_standards_are_green_and_every_slip_is_caught(one: Standard) -> None:
    judged = run(one, "fast")
    assert judged.verdict == "green", judged.reasons
    assert [slip.name for slip in caught(one) if not slip.caught] == []


# --- the kernel ---


def test_a_module_s_kernel_is_that_of_its_gradients_one_by_one() -> None:
    module, x = network(), normal(4, 3)
    found = tangent_kernel(*functional(module), x)
    wide = network().double()
    rows = []
    for example in x:
        for c in range(2):
            wide.zero_grad()
            wide(example[None])[0, c].backward()
            rows.append(torch.cat([value.grad.ravel() for value in wide.parameters() if value.grad is not None]))
    truth = torch.stack(rows) @ torch.stack(rows).T
    assert (found.outputs, found.parameters) == (2, 32)
    torch.testing.assert_close(found.matrix, truth, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.summed, truth[::2, ::2] + truth[1::2, 1::2], rtol=1e-12, atol=1e-12)
    assert next(module.parameters()).dtype == torch.float32  # the network is left as it was
    assert all(value.grad is None for value in module.parameters())


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_blocks_give_what_the_whole_gives(rows: int) -> None:
    model, parameters = functional(network())
    x, z = normal(7, 3), normal(5, 3, name="z")
    limit = 8 * 2 * 32 * 2 * rows
    whole = tangent_kernel(model, parameters, torch.cat([x, z])).matrix
    torch.testing.assert_close(tangent_kernel(model, parameters, x, limit=limit).matrix, whole[:14, :14], rtol=1e-13, atol=0)
    torch.testing.assert_close(tangent_kernel(model, parameters, x, z, limit=limit).matrix, whole[:14, 14:], rtol=1e-13, atol=0)


def test_frozen_parameters_and_buffers_are_no_part_of_it() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).eval()
    module[0].requires_grad_(False)
    _, parameters = functional(module)
    assert sorted(parameters) == ["1.bias", "1.weight", "2.bias", "2.weight"]
    found = tangent_kernel(*functional(module), normal(3, 3)).matrix
    assert found.shape == (3, 3) and float(found.min()) > 0  # the last offset alone gives 1


def test_the_closed_form_is_the_mean_over_single_units() -> None:
    """Monte Carlo over 400,000 units, each with its own gradients written out."""
    generator, units = numpy_generator(0, "units"), 400_000
    x = np.array([[1.0, 0.0, 0.5], [-0.3, 2.0, 0.1], [0.8, 0.1, 0.4]])
    w, a = generator.normal(size=(units, 3)), generator.normal(size=units)
    z = x @ w.T
    top = np.maximum(z, 0)
    inner = (z > 0) * a
    found = (top @ top.T + (inner @ inner.T) * (x @ x.T)) / units
    np.testing.assert_allclose(relu_kernel(torch.as_tensor(x)).numpy(), found, rtol=0.02, atol=0.01)
    assert float(relu_kernel(torch.as_tensor(x))[0, 0]) == pytest.approx(1.25)  # ‖x‖² on the diagonal
    torch.testing.assert_close(relu_kernel(torch.as_tensor(x), torch.as_tensor(x[:1])), relu_kernel(torch.as_tensor(x))[:, :1])


def test_motion_is_relative_and_zero_where_nothing_moved() -> None:
    kernel = normal(4, 4) @ normal(4, 4).T
    assert kernel_motion(kernel, kernel) == 0
    assert kernel_motion(kernel, 3 * kernel) == pytest.approx(2)
    assert kernel_motion(5 * kernel, 15 * kernel) == pytest.approx(2)


# --- descent ---


def test_descent_under_a_kernel_is_that_of_the_residual() -> None:
    factor, residual, step = normal(5, 9), normal(5, name="r"), 0.01
    kernel = factor @ factor.T
    found = kernel_descent(kernel, residual, step, 4)
    rows = [residual]
    for _ in range(4):
        rows.append(rows[-1] - step * kernel @ rows[-1])
    torch.testing.assert_close(found.energies, mode_energies(kernel, torch.stack(rows)))
    torch.testing.assert_close(found.losses, torch.stack(rows).square().sum(1) / 2)


def test_the_ratio_never_lies_below_the_kernel_s_least_eigenvalue() -> None:
    model, parameters = functional(network())
    for seed in range(20):
        x, y = normal(6, 3, name=f"x{seed}"), normal(6, 2, name=f"y{seed}")
        found = pl_star(model, parameters, x, y)
        assert found.holds and found.least <= found.ratio <= found.largest
        assert found.loss == pytest.approx(float((model(parameters, x) - y).square().sum() / 2))


# --- the catapult ---


def test_the_three_phases_of_the_smallest_network() -> None:
    for c, phase in ((1.5, "monotone"), (2.5, "catapult"), (3.5, "catapult")):
        f, tops = two_variable_map(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(c / 2), 512, 400)
        found = catapult(f.square() / 2, tops, c / 2)
        assert found.phase == phase and found.end < 1e-6 and found.edge < 1
        assert (found.peak > 10) == (phase == "catapult")
    f, tops = two_variable_map(torch.tensor(1.0), torch.tensor(2.0), torch.tensor(2.25), 512, 50)
    found = catapult(f.square() / 2, tops, 2.25)
    assert found.phase == "diverged" and found.peak == math.inf and math.isnan(found.edge)


def test_a_spike_lies_where_the_residual_grew() -> None:
    kernel = torch.diag(torch.tensor([5.0, 4.0, 1.0], dtype=torch.float64))
    before = torch.tensor([0.1, 0.2, 1.0], dtype=torch.float64)
    assert spike_share(kernel, before, before + torch.tensor([3.0, 0.0, 0.0]), 1) == pytest.approx(1)
    assert spike_share(kernel, before, before + torch.tensor([0.0, 3.0, 0.0]), 1) == pytest.approx(0)
    assert spike_share(kernel, before, before + torch.tensor([0.0, 3.0, 0.0]), 2) == pytest.approx(1)


# --- what is refused ---


def test_what_is_refused_says_why() -> None:
    model, parameters = functional(network())
    x, eye = normal(3, 3), torch.eye(3, dtype=torch.float64)
    with pytest.raises(InputError, match=r"module: 2 is in train mode.*eval"):
        functional(network().train())
    with pytest.raises(InputError, match="no trainable parameter"):
        functional(network().requires_grad_(False))
    with pytest.raises(InputError, match="it draws random numbers"):
        tangent_kernel(lambda p, x: nn.functional.dropout(model(p, x), 0.5, True), parameters, x)
    with pytest.raises(InputError, match="gave shape"):
        tangent_kernel(lambda p, x: model(p, x).sum(), parameters, x)
    with pytest.raises(InputError, match="the gradients of two examples would hold 1,024 bytes"):
        tangent_kernel(model, parameters, x, limit=1000)
    with pytest.raises(InputError, match="x: row 1 holds a NaN"):
        tangent_kernel(model, parameters, torch.tensor([[0.0, 0, 0], [0, math.nan, 0]]))
    with pytest.raises(InputError, match="parameters: got none"):
        tangent_kernel(model, {}, x)
    with pytest.raises(InputError, match="at least one example"):
        tangent_kernel(model, parameters, x[:0])
    with pytest.raises(InputError, match="y: got shape"):
        pl_star(model, parameters, x, normal(3))
    with pytest.raises(InputError, match="the loss is 0"):
        pl_star(model, parameters, x, model(parameters, x))
    with pytest.raises(InputError, match="use the same examples"):
        kernel_motion(eye, eye[:2, :2])
    with pytest.raises(InputError, match="the kernel is zero"):
        kernel_motion(0 * eye, eye)
    with pytest.raises(InputError, match="wanted 3 figures"):
        kernel_descent(eye, normal(4), 0.1, 3)
    with pytest.raises(InputError, match="wanted a rise"):
        spike_share(eye, normal(3), 0.5 * normal(3), 1)
    with pytest.raises(InputError, match="the same T"):
        catapult(normal(3), normal(4), 0.1)
    with pytest.raises(InputError, match="finite and above 0"):
        catapult(torch.tensor([math.inf, 1.0]), torch.ones(2), 0.1)
    with pytest.raises(InputError, match="rows like those of x"):
        relu_kernel(x, normal(3, 2))
