"""The response: against Jacobians of our own, through the logits by a hook by hand, without the head's weights or any cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import families
import strandscope as ss
from strandscope.capture import laststep, response, taking
from strandscope.capture.examples import Examples
from strandscope.capture.readout import Readout, entropy_of, output_participation, temper
from strandscope.capture.response import Responses, exact, respond
from strandscope.errors import InputError, TrustError
from strandscope.subject.attach import Scope, attach, hooks
from strandscope.subject.fingerprint import module_fingerprint
from strandscope.subject.site import Site

CAUSAL = ("Llama", "Mistral", "Qwen3", "Gemma 3", "GPT-2", "GPT-NeoX", "Mixtral", "RWKV", "Mamba")
OTHERS = ("ViT", "ConvNeXt", "plain MLP")
SITES = ("resid:0", "resid:2")


def gemma2() -> nn.Module:
    """Its logits are capped, and its attention too, so that it is computed without PyTorch's own function."""
    more = {"sliding_window": 4, "query_pre_attn_scalar": 8, "final_logit_softcapping": 2.0, "attn_implementation": "eager"}
    return families._transformers("Gemma2Config", "Gemma2ForCausalLM", **families._GROUPED, **more)


def granite() -> nn.Module:
    """Its logits are scaled after the head."""
    return families._transformers("GraniteConfig", "GraniteForCausalLM", **families._GROUPED, logits_scaling=3.0)


def phi() -> nn.Module:
    """Its head has a bias."""
    return families._transformers("PhiConfig", "PhiForCausalLM", **families._TEXT)


MAKERS: dict[str, Callable[[], nn.Module]] = {**families.FAMILIES, "Gemma 2": gemma2, "Granite": granite, "Phi": phi}


@cache
def opened(family: str) -> ss.Subject:
    """In float64 where the family computes in it; norms of many still round to fp32."""
    module = MAKERS[family]()
    module = module if family == "Mixtral" else module.double()
    return ss.load(module, batch=vectors if family == "plain MLP" else None, check="none")


def vectors(rows: Any) -> dict[str, Tensor]:
    return {"input": torch.stack(list(rows)).double()}


def rows_for(subject: ss.Subject, lengths: tuple[int, ...] = (9, 14, 5, 1, 12)) -> Examples:
    generator = torch.Generator().manual_seed(3)
    if subject.anatomy.tokens:
        drawn = [torch.randint(3, 60, (length,), generator=generator) for length in lengths]
    else:
        shape = subject.probe[0].shape
        drawn = [torch.randn(shape, generator=generator) for _ in lengths]
    return Examples.from_rows([{"tensor": row} for row in drawn])


def by_hand(subject: ss.Subject, row: Any, site: str, position: int | str = "last", answer: int | None = None) -> tuple[Any, Any]:
    """(logits (V), their Jacobian (V, d) in the state at the position), float64: a hook by hand, one backward pass a logit."""
    port = subject.port(site)

    def logits(push: Tensor) -> Tensor:
        def after(_module: Any, _args: Any, output: Any) -> Any:
            state = port.state(output)
            mask = torch.zeros(state.shape[:2], dtype=torch.bool)
            where = slice(None) if position == "mean" else -1 if position == "last" else position
            mask[:, where] = True  # type: ignore[index]
            return port.replace(output, state + mask[..., None] * push)

        handle = port.module.register_forward_hook(after)
        try:
            more = {"use_cache": False} if subject.anatomy.tokens else {}
            made = taking.scores(subject.module(**subject.batch([row.tolist() if subject.anatomy.tokens else row]), **more))
        finally:
            handle.remove()
        return made[0] if made.dim() < 3 else made[0, -1 if answer is None else answer]

    push = torch.zeros(port.width, dtype=subject.dtype)
    with torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(logits, push)
    return logits(push).detach().double(), jacobian.double()  # type: ignore[union-attr]


def metric(logits: Tensor, jacobian: Tensor, scale: float = 1.0) -> Tensor:
    """Σ p(y) ∇log p(y) ∇log p(y)ᵀ, term by term."""
    logp = (scale * logits).log_softmax(-1)
    slopes = scale * (jacobian - logp.exp() @ jacobian)
    return sum((p * torch.outer(slope, slope) for p, slope in zip(logp.exp(), slopes, strict=True)), torch.zeros(1))


def near(found: Tensor, wanted: Tensor, within: float = 1e-5) -> bool:
    return float((found.double() - wanted.double()).norm() / wanted.double().norm()) < within


# --- the exact metric, and with it Jacobians, heads and both routes ---


@pytest.mark.parametrize("family", [*CAUSAL, "Gemma 2", "Granite", "Phi", *OTHERS])
def test_the_exact_metric_is_that_of_a_jacobian_by_hand(family: str) -> None:
    subject = opened(family)
    examples = rows_for(subject, (6, 1))
    for example, one in zip(examples.rows, exact(subject, examples, SITES[: 1 + (family != "RWKV")]), strict=True):
        for site, found in one.metrics.items():
            logits, jacobian = by_hand(subject, example.input, str(site))
            assert near(found, metric(logits, jacobian)), site
            assert near(one.p, logits.softmax(-1))
            assert one.entropy == pytest.approx(entropy_of(logits), rel=1e-6)


@pytest.mark.parametrize("family", ["Llama", "Gemma 2", "Granite", "ViT"])
def test_scaled_to_an_entropy_it_is_the_metric_of_the_scaled_answer(family: str) -> None:
    subject = opened(family)
    examples = rows_for(subject, (6, 7))
    wanted = torch.tensor([0.4, 1.1])
    for number, one in enumerate(exact(subject, examples, "resid:1", entropy=wanted)):
        logits, jacobian = by_hand(subject, examples.rows[number].input, "resid:1")
        assert entropy_of(logits, one.scale) == pytest.approx(float(wanted[number]), abs=1e-7)
        assert one.entropy == pytest.approx(float(wanted[number]), abs=1e-7)
        assert near(one.metrics[Site("resid", 1)], metric(logits, jacobian, one.scale))


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Mamba", "ViT"])
@pytest.mark.parametrize("position", [0, 3, "mean"])
def test_other_positions(family: str, position: Any) -> None:
    subject = opened(family)
    examples = rows_for(subject, (6,))
    (one,) = exact(subject, examples, "resid:1", position=position)
    logits, jacobian = by_hand(subject, examples.rows[0].input, "resid:1", position)
    assert near(one.metrics[Site("resid", 1)], metric(logits, jacobian))


def test_an_encoder_answers_at_the_position_looked_at() -> None:
    module = families._transformers("BertConfig", "BertForMaskedLM", **families._TEXT).double()
    subject = ss.load(module, check="none")
    assert not subject.anatomy.causal
    examples = rows_for(subject, (6,))
    (one,) = exact(subject, examples, "resid:1", position=2)
    logits, jacobian = by_hand(subject, examples.rows[0].input, "resid:1", 2, answer=2)
    assert near(one.metrics[Site("resid", 1)], metric(logits, jacobian))
    with pytest.raises(InputError, match="the mean has no answer of its own"):
        respond(subject, examples, "resid:1", position="mean")


def test_a_regression_is_the_jacobian_over_its_noise() -> None:
    subject = opened("plain MLP")
    examples = rows_for(subject, (1, 1))
    (one, _) = exact(subject, examples, "resid:0", noise=0.3, jacobians=True)
    _, jacobian = by_hand(subject, examples.rows[0].input, "resid:0")
    assert near(one.jacobians[Site("resid", 0)], jacobian, 1e-12)
    assert near(one.metrics[Site("resid", 0)], jacobian.mT @ jacobian / 0.09, 1e-12)
    sampled = respond(subject, examples, "resid:0", noise=0.3, draws=3_000)
    assert near(sampled.at("resid:0")[0].mT @ sampled.at("resid:0")[0] / 3_000, one.metrics[Site("resid", 0)], 0.1)
    assert bool(sampled.entropy.isnan().all())


# --- the sampled one ---


@cache
def plainly(family: str) -> Responses:
    """All draws of a causal family by the route that runs each row whole."""
    subject = opened(family)
    whole = replace(subject, anatomy=replace(subject.anatomy, steps=False), _ports={})
    return respond(whole, rows_for(subject), "embed,resid:*,attn:2", draws=16, probes=4)


@pytest.mark.parametrize("family", CAUSAL)
def test_both_routes_give_the_same_draws_the_same_gradients(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, taken = opened(family), []
    before = taking.Taker.last_step
    monkeypatch.setattr(taking.Taker, "last_step", lambda *given: taken.append(before(*given)) or taken[-1])
    found, wanted = respond(subject, rows_for(subject), "embed,resid:*,attn:2", draws=16, probes=4), plainly(family)
    assert len([one for one in taken if one is not None]) == (0 if family in ("RWKV", "Mamba") else 4)
    for site in found.sites:
        assert near(found.at(site), wanted.at(site)), site
        assert near(found.probes[site], wanted.probes[site]), site
        assert near(found.states[site], wanted.states[site]), site
    assert torch.allclose(found.entropy, wanted.entropy, rtol=1e-6)


def test_many_draws_have_the_exact_metric_for_their_second_moment() -> None:
    """‖M̂ − F‖² has the mean (E‖g‖⁴ − ‖F‖²)/K; and the mean of all gradients is zero within its error."""
    subject = opened("Llama")
    examples, count = rows_for(subject, (9,)), 20_000
    (one,) = exact(subject, examples, "resid:1", jacobians=True)
    sampled = respond(subject, examples, "resid:1", draws=count, probes=count)
    wanted, rows = one.metrics[Site("resid", 1)].double(), sampled.at("resid:1")[0].double()
    fourth = rows.square().sum(1).square().mean()
    off = (rows.mT @ rows / count - wanted).square().sum()
    assert 0.2 < float(off * count / (fourth - wanted.square().sum())) < 3
    assert float(rows.mean(0).square().sum() * count / wanted.trace()) < 3
    jacobian, probes = one.jacobians[Site("resid", 1)].double(), sampled.probes[Site("resid", 1)][0].double()
    assert near(probes.mT @ probes / count, jacobian.mT @ jacobian, 0.05)


def test_draws_depend_on_the_row_and_the_seed_alone() -> None:
    subject = opened("Llama")
    examples = rows_for(subject)
    whole = respond(subject, examples, "resid:*", draws=24)
    turned = respond(subject, examples.subset([4, 2, 0]), "resid:1", draws=9)
    for here, there in ((0, 4), (1, 2), (2, 0)):
        assert near(turned.at("resid:1")[here], whole.at("resid:1")[there, :9])
    other = respond(subject, examples, "resid:1", draws=24, seed=1)
    assert not near(other.at("resid:1"), whole.at("resid:1"), 0.5)
    assert len({tuple(row.tolist()) for row in whole.at("resid:3")[1]}) > 8  # and differ among themselves


def test_a_shared_beginning_is_run_once_and_changes_nothing() -> None:
    subject = opened("GPT-2")
    generator = torch.Generator().manual_seed(4)
    start = torch.randint(3, 60, (12,), generator=generator)
    rows = [torch.cat([start, torch.randint(3, 60, (length,), generator=generator)]) for length in (1, 1, 3, 6)]
    together = respond(subject, Examples.from_rows([{"tensor": row} for row in rows]), "resid:*", draws=8)
    for number, row in enumerate(rows):
        alone = respond(subject, Examples.from_rows([{"tensor": row}]), "resid:*", draws=8)
        assert near(together.at("resid:1")[number], alone.at("resid:1")[0])


def test_attention_that_is_computed_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = families.llama()
    module.config._attn_implementation = "eager"
    subject, missed = ss.load(module.double(), check="none"), []
    seen = laststep.SplitAttention.missed.fget
    assert seen is not None
    monkeypatch.setattr(laststep.SplitAttention, "missed", property(lambda it: missed.append(seen(it)) or missed[-1]))
    found = respond(subject, rows_for(subject), "embed,resid:*,attn:2", draws=16, probes=4)
    assert all(missed) and len(missed) == 4
    assert near(found.at("resid:1"), plainly("Llama").at("resid:1"))
    missed.clear()
    respond(opened("Llama"), rows_for(subject), "resid:1", draws=16)
    assert not any(missed) and len(missed) == 4


@pytest.mark.parametrize("family", ["Llama", "RWKV", "ViT"])
def test_the_network_is_left_as_it_was_found(family: str) -> None:
    subject = families.subject(family)
    before, hung, state = module_fingerprint(subject.module), hooks(subject.module), torch.get_rng_state()
    respond(subject, rows_for(subject), "resid:*", draws=8, output=True)
    assert module_fingerprint(subject.module) == before and hooks(subject.module) == hung
    assert all(weight.grad is None for weight in subject.module.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_under_an_edit_are_those_of_the_edited_network() -> None:
    subject = opened("Llama")
    examples = rows_for(subject, (9,))
    push = torch.linspace(-1, 1, 32, dtype=torch.float64)
    with attach(subject, edits={Site("resid", 1): [(lambda state: state + push, Scope())]}):
        (one,) = exact(subject, examples, "resid:2")
        logits, jacobian = by_hand(subject, examples.rows[0].input, "resid:2")
        assert respond(subject, examples, "resid:2", draws=8).edited
    assert near(one.metrics[Site("resid", 2)], metric(logits, jacobian))
    assert not near(one.metrics[Site("resid", 2)], metric(*by_hand(subject, examples.rows[0].input, "resid:2")), 0.01)


# --- the output's own metric ---


def dense(weight: Tensor, logits: Tensor, scale: float) -> float:
    """½ Σ p(y) p(z) (w_y − w_z)(w_y − w_z)ᵀ, pair by pair: no difference of nearly equal matrices."""
    p, metric = (scale * logits).softmax(-1), torch.zeros(weight.shape[1], weight.shape[1]).double()
    for token, row in zip(p, weight, strict=True):
        apart = weight - row
        metric += token / 2 * (apart.mT * p) @ apart
    return float(metric.trace() ** 2 / metric.square().sum())


@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0, 30.0])
@pytest.mark.parametrize("shape", [(150, 24), (30, 64)])
def test_the_participation_of_the_output_is_that_of_the_dense_matrix(shape: tuple[int, int], scale: float) -> None:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    logits = torch.randn(shape[0], generator=generator, dtype=torch.float64)
    wanted = dense(weight, logits, scale)
    found, error = output_participation(*Readout(torch.zeros(shape[1]).double(), logits, weight).factor(scale, 1e-9))
    assert found == pytest.approx(wanted, rel=1e-8)
    rough, bound = output_participation(*Readout(torch.zeros(shape[1]).double(), logits, weight).factor(scale, 0.05))
    assert rough == pytest.approx(wanted, rel=bound) and error <= bound
    assert rough != wanted or bound == 0
    single, _ = output_participation(*Readout(torch.zeros(shape[1]), logits, weight.float()).factor(scale))
    assert single == pytest.approx(wanted, rel=2e-4)
    bare, _ = output_participation(*Readout(logits, logits).factor(scale, 1e-12))
    assert bare == pytest.approx(dense(torch.eye(shape[0]).double(), logits, scale), rel=1e-7)


@pytest.mark.parametrize("family", ["Llama", "Gemma 2", "Granite", "Phi"])
def test_the_participation_of_a_network_is_that_of_its_exact_output_metric(family: str) -> None:
    subject = opened(family)
    examples = rows_for(subject)
    found = respond(subject, examples, "resid:1", draws=8, output=True, entropy=torch.full((5,), 1.0))
    for number, one in enumerate(exact(subject, examples, "resid:1", entropy=torch.full((5,), 1.0))):
        matrix = one.output.double()
        assert float(found.output_participation[number]) == pytest.approx(
            float(matrix.trace() ** 2 / matrix.square().sum()), rel=1e-4
        )
        assert matrix.shape == (32, 32)  # the head was found to be elementwise in all of these


def test_temper_finds_the_scale_of_an_entropy_or_says_what_could_be() -> None:
    logits = torch.randn(100, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for wanted in (1e-3, 0.5, 2.0, 4.6):
        assert entropy_of(logits, temper(logits, wanted, "row 1")) == pytest.approx(wanted, abs=1e-6)
    for wanted in (0.0, -1.0, math.log(100), math.nan):
        with pytest.raises(InputError, match=r"entropy of row 1: got .* wanted a figure between 0 and 4.605"):
            temper(logits, wanted, "row 1")
    tied = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    with pytest.raises(InputError, match=r"between 0\.693 and 1\.099"):
        temper(tied, 0.5, "row 1")


# --- bad input ---


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"draws": 7}, "draws: got 7, wanted at least 8"),
        ({"probes": -1}, "probes: got -1"),
        ({"entropy": torch.ones(3)}, r"entropy: got shape \(3,\)"),
        ({"entropy": torch.full((5,), 4.5)}, "wanted a figure between 0 and 4.159"),
        ({"draws": 10**9}, "bytes, and the machine has"),
        ({"position": -2}, "position: got -2"),
        ({"position": "first"}, "position: got 'first'"),
        ({"position": 12}, "position 12: row rows:1 has 9 tokens"),
        ({"noise": 0.0}, "noise: got 0.0"),
        ({"at": "module:lm_head"}, "site module:lm_head: the answer has no gradient there"),
        ({"at": "resid:9"}, "site resid:9 does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(given: dict[str, Any], sentence: str) -> None:
    subject = opened("Llama")
    with pytest.raises(InputError, match=sentence):
        respond(subject, rows_for(subject), **given)


def test_rows_that_do_not_fit_are_named() -> None:
    subject = opened("Llama")
    with pytest.raises(InputError, match="129 tokens, and the context holds 128"):
        respond(subject, rows_for(subject, (5, 129)))
    vit = opened("ViT")
    with pytest.raises(InputError, match="position 40: row rows:1 has no such position at site resid:0"):
        respond(vit, rows_for(vit, (1,)), "resid:0", position=40)


def test_states_that_are_no_numbers_are_named_by_row_and_site() -> None:
    module = families.llama()
    subject = ss.load(module, check="none")
    with torch.no_grad():
        module.get_parameter("model.embed_tokens.weight")[63] = torch.nan
    rows = Examples.from_rows([{"tensor": torch.tensor(ids), "id": name} for ids, name in (([3, 4, 5], "a"), ([3, 63, 5], "b"))])
    with pytest.raises(TrustError, match="row b, site resid:0: its state is NaN or infinite"):
        respond(subject, rows, "resid:0", draws=8)


def test_a_network_without_a_head_needs_a_noise() -> None:
    module = families._transformers("LlamaConfig", "LlamaModel", **families._GROUPED)
    subject = ss.load(module, check="none")
    with pytest.raises(InputError, match="no head was found"):
        respond(subject, rows_for(subject, (5,)), "resid:0")
    assert respond(subject, rows_for(subject, (5,)), "resid:0", noise=1.0).at("resid:0").shape == (1, 64, 32)


def test_a_site_that_is_cut_off_is_named() -> None:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, input: Tensor) -> Tensor:
            return self.layers[2:](self.layers[:2](input).detach())

    subject = ss.load(Cut().eval(), batch=families.vectors, check="none")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="site resid:0: the answer has no gradient there"):
        respond(subject, rows_for(subject, (1,)), "resid:0,resid:1", draws=8)


@pytest.mark.real
def test_both_routes_agree_on_the_embedded_model() -> None:
    subject = ss.load("smollm2", dtype="float32", check="none")
    text = Examples.from_rows([{"text": "The oldest bridge in the town was built of stone, and it still carries the road over"}])
    whole = replace(subject, anatomy=replace(subject.anatomy, steps=False), _ports={})
    found, wanted = (respond(one, text, "embed,resid:0,resid:29", draws=8) for one in (subject, whole))
    for site in found.sites:
        assert near(found.at(site), wanted.at(site), 1e-3)


def test_response_streams_what_respond_keeps() -> None:
    subject = opened("Llama")
    examples, seen = rows_for(subject), []
    kept = respond(subject, examples, "resid:1", draws=8, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(done, 5) for done in range(1, 6)]
    for one in response.stream(subject, examples, "resid:1", draws=8):
        assert torch.equal(one.gradients[Site("resid", 1)], kept.at("resid:1")[one.row])
    with pytest.raises(InputError, match="site resid:2: was not asked for; there are resid:1"):
        kept.at("resid:2")


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Gemma 2"])
def test_the_jacobian_to_the_output_is_that_to_a_later_block_and_from_there(family: str) -> None:
    """Of one token after a cache all of an earlier state's effect goes through the later one."""
    subject = opened(family)
    first, later = Site("resid", 0), Site("resid", 2)
    for one in taking.tapes(subject, rows_for(subject, (7,)), [first, later]):
        whole = one.pull(torch.eye(one.readout.width))
        between = one.between(first, later, torch.eye(32))
        assert near(whole[later] @ between, whole[first])
        assert not near(whole[later], whole[first], 0.1)


def test_steps_are_rows_of_the_jacobian_between_neighbours() -> None:
    subject = opened("Llama")
    examples, count = rows_for(subject, (7,)), 4_000
    (one,) = response.stream(subject, examples, "resid:0,resid:2", draws=8, probes=count, steps=True)
    (tape,) = taking.tapes(subject, examples, subject.sites("resid:0,resid:2"))
    jacobian = tape.between(Site("resid", 0), Site("resid", 2), torch.eye(32))
    assert list(one.steps) == [Site("resid", 0)]
    rows = one.steps[Site("resid", 0)]
    assert near(rows.mT @ rows / count, jacobian.mT @ jacobian, 0.1)
