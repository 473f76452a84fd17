"""The audit as a whole, on a tiny network: what it finds, that it repeats, resumes and corrects for several concepts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import strandscope as ss
import tiny_audit
import tiny_chat
from strandscope.errors import InputError, MissingError, TrustError
from strandscope.report import stages
from strandscope.report.asked import packs
from strandscope.report.census import census_entry, write
from strandscope.report.finding import Pushes, Report, Unmeasured, as_json, from_json
from strandscope.report.markdown import markdown
from strandscope.statistics.resample import holm

TOLD = ss.Examples.from_rows(tiny_chat.rows(told=True), name="told")
NOISE = ss.Examples.from_rows(tiny_chat.rows(told=False, seed=3), name="noise")


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> ss.Subject:
    return ss.load(tiny_chat.save_model(tmp_path_factory.mktemp("model")), check="full")


TRIAL, USE = stages.trial, stages.use


@pytest.fixture(autouse=True)
def quick_push(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "trial", tiny_audit.trial)
    monkeypatch.setattr(stages, "certificate", tiny_audit.certificate)
    monkeypatch.setattr(stages, "use", tiny_audit.use)
    monkeypatch.setattr(stages, "certify", tiny_audit.certify)


def settled(report: Report) -> dict[str, Any]:
    """The report as JSON without what may differ between two runs: the date and where stages came from."""
    made = as_json(report)
    made["provenance"] |= {"date": "", "resumed": []}
    return made


def test_finds_what_is_there_and_says_so_of_what_is_not(subject: ss.Subject, tmp_path: Path) -> None:
    done = ss.audit(subject, [TOLD, NOISE], tmp_path)
    verdicts = {one.id: one.verdict for one in done.report.findings}
    assert (verdicts["told.decodable"], verdicts["noise.decodable"]) == ("detected", "not detected")
    assert "would have called detected with power 0.8" in done.report.finding("noise.decodable").detail
    assert (verdicts["told.used"], verdicts["noise.used"]) == ("read and used", "not measured")
    assert verdicts["told.steer"].startswith(f"moved at {stages.NATS} nats") and verdicts["noise.steer"] == "not measured"
    assert done.report.finding("noise.steer").reading.reason == "the concept was not detected"
    p = [one.reading.null.p for one in done.report.findings if one.id.endswith(".decodable") and one.reading.null]
    for corrected, name in zip(holm([float(value or 0) for value in p]), ("told", "noise"), strict=True):
        assert f"the 2 concepts of this audit {corrected:.2g}" in done.report.finding(f"{name}.decodable").detail
    assert sorted(path.name for path in (tmp_path / "strands").iterdir()) == ["noise.safetensors", "told.safetensors"]
    saved = ss.Strand.load(tmp_path / "strands" / "told.safetensors")
    assert str(saved) == done.report.concepts[0].strand.line
    read = from_json(Report, (tmp_path / "report.json").read_text(encoding="utf-8"), "report.json")
    assert read == done.report
    assert {"passed"} <= {line.status for line in read.subject.selfcheck} and len(read.subject.selfcheck) > 8


def test_the_same_audit_gives_the_same_report(subject: ss.Subject) -> None:
    first, second = (settled(ss.audit(subject, [TOLD], seed=1).report) for _ in range(2))
    assert first == second
    assert settled(ss.audit(subject, [TOLD], seed=2).report)["findings"] != first["findings"]


def test_an_interrupted_audit_goes_on_where_it_was(subject: ss.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ss.audit(subject, [TOLD, NOISE], seed=5).report
    search, remarks = stages.find, []

    def once(acts: Any, **options: Any) -> Any:
        if acts.examples.name == "noise":
            raise KeyboardInterrupt
        return search(acts, **options)

    monkeypatch.setattr(stages, "find", once)
    with pytest.raises(KeyboardInterrupt):
        ss.audit(subject, [TOLD, NOISE], tmp_path, seed=5)
    assert not (tmp_path / "report.json").exists() and not (tmp_path / "report.md").exists()

    def only_noise(acts: Any, **options: Any) -> Any:
        assert acts.examples.name == "noise"  # told is taken from before
        return search(acts, **options)

    monkeypatch.setattr(stages, "find", only_noise)
    done = ss.audit(subject, [TOLD, NOISE], tmp_path, seed=5, progress=lambda *call: remarks.append(call))
    assert settled(done.report) == settled(whole)
    assert done.report.provenance.resumed == ("told: find",)
    assert any(of == 0 and "told: find: taken from an earlier run" in stage for stage, _, of in remarks)
    assert "taken from an earlier run: told: find" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_a_finished_audit_is_rendered_again_and_another_seed_or_data_is_not_taken(
    subject: ss.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ss.audit(subject, [TOLD], tmp_path).report
    search = stages.find

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(stages, "find", forbidden)
    monkeypatch.setattr(stages, "trial", forbidden)
    (tmp_path / "report.md").unlink()
    again = ss.audit(subject, [TOLD], tmp_path).report
    assert settled(again) == settled(first) and (tmp_path / "report.md").exists()
    for other in ({"seed": 1}, {"concepts": [ss.Examples.from_rows(tiny_chat.rows(seed=9), name="told")]}):
        with pytest.raises(AssertionError, match="measured again"):
            ss.audit(subject, other.get("concepts", [TOLD]), tmp_path, seed=other.get("seed", 0))  # type: ignore[arg-type]
    monkeypatch.setattr(stages, "find", search)
    with pytest.raises(AssertionError, match="measured again"):  # the evidence is shared, the texts of a quick audit are not
        ss.audit(subject, [TOLD], tmp_path, quick=True)


def test_equal_weights_that_behave_otherwise_are_another_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a configuration changes stands in no weight, and the angles of the positions not in the printed module either."""
    folder = tiny_chat.save_model(tmp_path / "model")
    first = ss.load(folder, check="full")
    ss.audit(first, [TOLD], tmp_path / "out")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["rope_parameters"]["rope_theta"] = 10.0
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    second = ss.load(folder, check="full")
    assert second.fingerprint == first.fingerprint and repr(second.module) == repr(first.module)
    done = ss.audit(second, [TOLD], tmp_path / "out")
    assert not done.report.provenance.resumed
    again = ss.audit(second, [TOLD], tmp_path / "out")
    assert again.report.provenance.resumed
    second.module.generation_config.repetition_penalty = 50.0  # shows in texts alone
    assert not ss.audit(second, [TOLD], tmp_path / "out").report.provenance.resumed
    head = second.module.get_submodule("lm_head")
    head.weight = torch.nn.Parameter(head.weight.flip(0).clone())  # below every block; untied from the embedding
    assert not ss.audit(second, [TOLD], tmp_path / "out").report.provenance.resumed


def test_a_network_that_generates_but_whose_head_was_not_found_is_audited_without_a_push(
    subject: ss.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "trial", TRIAL)
    headless = replace(subject, anatomy=replace(subject.anatomy, head=None))
    report = ss.audit(headless, [TOLD], tmp_path).report
    assert report.finding("told.decodable").verdict == "detected"
    assert "predicts no next token" in report.finding("told.steer").reading.reason


def test_the_rows_that_tell_networks_apart_hold_the_longest_and_other_ids_are_other_rows(
    subject: ss.Subject, tmp_path: Path
) -> None:
    lengths = [3, 4, 5, 6, 7, 90, 8, 91, 9, 92, 10, 93, 94]
    rows = ss.Examples.from_rows([{"text": "x" * length} for length in lengths])
    assert stages._telling(rows) == [0, 1, 2, 3, 7, 9, 11, 12]
    assert stages._telling(rows.subset([0, 1])) == [0, 1]
    ss.audit(subject, [TOLD], tmp_path, steer=False)
    renamed = [replace(row, id=f"new {row.id}") for row in TOLD.rows]
    again = ss.audit(subject, [replace(TOLD, rows=tuple(renamed))], tmp_path, steer=False)
    assert not again.report.provenance.resumed and again.strands[0].shown[0].id.startswith("new ")


def test_a_spoilt_earlier_stage_is_told_and_not_taken(subject: ss.Subject, tmp_path: Path) -> None:
    ss.audit(subject, [TOLD], tmp_path, steer=False)
    (kept,) = (tmp_path / ".work").glob("*/found.json")
    kept.write_text(kept.read_text(encoding="utf-8")[:200], encoding="utf-8")
    with pytest.raises(InputError, match=r"found\.json: .*delete the file and measure again"):
        ss.audit(subject, [TOLD], tmp_path, steer=False)


def test_quick_keeps_the_permutations_and_says_it_is_quick(subject: ss.Subject, tmp_path: Path) -> None:
    quick, full = ss.audit(subject, [TOLD], tmp_path, quick=True), ss.audit(subject, [TOLD])
    assert quick.report.provenance.permutations == full.report.provenance.permutations == 200
    first, second = (
        [one for one in as_json(done.report)["findings"] if one["id"].rpartition(".")[2] not in ("used", "steer", "erasable")]
        for done in (quick, full)
    )
    assert first == second
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["provenance"]["mode"] == "quick"
    assert "; QUICK: fewer and shorter texts" in str(quick) and "Quick audit" in (tmp_path / "report.md").read_text(
        encoding="utf-8"
    )


def test_many_concepts_get_permutations_enough_to_be_detected_after_holm() -> None:
    for concepts in (1, 6, 8, 9, 20, 100):
        least = 1 / (stages.permutations_for(concepts) + 1)
        assert holm([least] * concepts)[0] <= 0.05
    assert stages.permutations_for(6) == 200


def test_packs_that_a_network_cannot_take_are_named(tmp_path: Path) -> None:
    bare = ss.load(tiny_chat.save_model(tmp_path, chat=False))
    names, sentence = packs(bare, quick=False)
    assert names == ["truth", "sentiment", "formality", "certainty"]
    assert sentence.startswith("harm, spanish: left out") and "chat template" in sentence


def test_a_network_without_a_chat_template_is_pushed_on_plain_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "trial", TRIAL)
    bare = ss.load(tiny_chat.save_model(tmp_path, chat=False))
    done = ss.audit(bare, [TOLD], tmp_path / "audit", quick=True)
    pushed = done.report.concepts[0].steering
    assert isinstance(pushed, Pushes) and not pushed.chat
    assert "neutral prompts as plain texts" in done.report.finding("told.steer").reading.method
    assert pushed.texts[0].plain == bare.generate(pushed.texts[0].prompt, stages.QUICK.max_new_tokens, chat=False)
    assert "Continued:" in (tmp_path / "audit" / "report.md").read_text(encoding="utf-8")


def test_the_network_is_as_it_was(subject: ss.Subject) -> None:
    before = subject.generate("hello", 8)
    ss.audit(subject, [TOLD])
    assert subject.generate("hello", 8) == before


def test_a_real_push_is_in_the_report_at_its_measured_cost(subject: ss.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "trial", TRIAL)
    done = ss.audit(subject, [TOLD], quick=True)
    pushed = done.report.concepts[0].steering
    assert isinstance(pushed, Pushes)
    assert [dose.along for dose in pushed.doses] == ["toward", "away", "random 1"]
    for dose in pushed.doses:
        assert dose.cost.value == pytest.approx(dose.target, rel=0.05)
    assert done.report.finding("told.steer").reading == pushed.doses[0].cost
    assert pushed.texts[0].plain == subject.generate(pushed.texts[0].prompt, stages.QUICK.max_new_tokens)


def test_a_push_without_a_dose_is_not_measured_and_the_rest_stands(subject: ss.Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    def hopeless(*_: Any, **__: Any) -> Any:
        raise InputError("nats: got 0.3, but pushing reached 0.1; ask for fewer")

    monkeypatch.setattr(stages, "trial", hopeless)
    report = ss.audit(subject, [TOLD]).report
    assert report.finding("told.decodable").verdict == "detected"
    assert report.finding("told.steer").reading.reason == "nats: got 0.3, but pushing reached 0.1; ask for fewer"


def test_the_module_is_the_verb() -> None:
    import strandscope.audit

    assert callable(strandscope.audit) and ss.audit is strandscope.audit


def test_the_certificate_stands_in_the_report_or_is_said_to_be_missing(subject: ss.Subject) -> None:
    told = ss.audit(subject, [TOLD])
    lines = {line.name: line.verdict for line in told.report.certificate.standards}
    assert (told.report.certificate.verdict, lines) == ("red", {"one case": "green", "another": "red"})
    page = markdown(told.report)
    assert "1 of 2 standards met on this machine. Figures of these estimators cannot be trusted here:" in page
    assert "**another** (an estimator): off by 3" in page
    bare = ss.audit(subject, [TOLD], calibrate=False).report
    assert bare.certificate.status == "not measured" and "Certificate: not measured (it was not asked for)" in markdown(bare)


def test_use_is_measured_for_what_was_detected_kept_and_taken_again(
    subject: ss.Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "use", USE)
    ss.audit  # noqa: B018  (the module is loaded where the verb is first named)
    monkeypatch.setattr(sys.modules["strandscope.audit"], "USING", stages.Using(16, 16, 20))
    first = ss.audit(subject, [TOLD], tmp_path, steer=False)
    found = first.report.concepts[0].use
    assert not isinstance(found, Unmeasured) and found.susceptibility.n == 16 and found.beyond.null is not None
    assert first.report.finding("told.used").reading == found.beyond and "### Whether it is used" in markdown(first.report)
    again = ss.audit(subject, [TOLD], tmp_path, steer=False).report
    assert "told: use" in again.provenance.resumed and again.concepts[0].use == found


def test_a_census_stands_in_the_report_if_it_is_of_this_network(subject: ss.Subject, tmp_path: Path) -> None:
    texts = ss.Examples.from_rows([{"text": row["text"]} for row in tiny_chat.rows(n=24, groups=24)], name="texts")
    counted = ss.census(subject, texts, contexts=24, draws=32, probes=32, seeds=1, at="resid:1")
    write(census_entry(counted), tmp_path / "census")
    report = ss.audit(subject, [TOLD], census=tmp_path / "census").report
    assert not isinstance(report.census, Unmeasured) and report.census.fingerprint == subject.fingerprint
    assert "alignment excess" in markdown(report) and from_json(Report, json.dumps(as_json(report)), "report") == report
    broken = tmp_path / "census" / "census.json"
    broken.write_text(broken.read_text(encoding="utf-8").replace(subject.fingerprint, "f" * 64), encoding="utf-8")
    with pytest.raises(TrustError, match="a census of the network ffffffffffff, this one is"):
        ss.audit(subject, [TOLD], census=tmp_path / "census")
    with pytest.raises(MissingError, match="there is no such file"):
        ss.audit(subject, [TOLD], census=tmp_path / "nowhere")
