"""Drawn consultations: the same for the same seed, and what is held out never meets the training."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from backend.core.diagnose import Diagnoser
from backend.core.entities import Frequency, Urgency
from backend.core.knowledge import Knowledge
from backend.core.lexicon import spoken
from backend.core.prompt import Style, prompt_id, render
from tests.strategies import base
from training import synthesise
from training.artefacts import manifest_of
from training.config import SynthesiseConfig
from training.replies import spell_out
from training.synthesise import (
    Synthesiser,
    draw_findings,
    draw_patient,
    facts_from_json,
    facts_to_json,
    pieces_of,
)

SMALL = SynthesiseConfig(consultations=60, invented=30, held_out=20, held_out_pathologies=10)
_SLOT = re.compile(r"<\|[^|]*\|>")


@pytest.fixture(scope="module")
def drawn(diagnoser: Diagnoser) -> Synthesiser:
    """A synthesiser of a few examples."""
    return Synthesiser(diagnoser, SMALL, seed=17)


@pytest.fixture(scope="module")
def train(drawn: Synthesiser) -> list[dict[str, Any]]:
    """Its training examples."""
    return list(drawn.train())


@pytest.fixture(scope="module")
def held_out(drawn: Synthesiser) -> list[dict[str, Any]]:
    """Its examples for evaluation."""
    return list(drawn.held_out())


def test_the_same_seed_gives_the_same_examples(
    diagnoser: Diagnoser, train: list[dict[str, Any]], held_out: list[dict[str, Any]]
) -> None:
    """A run can be made again, example by example."""
    again = Synthesiser(diagnoser, SMALL, seed=17)
    assert list(again.held_out()) == held_out
    assert list(again.train()) == train


def test_another_seed_gives_other_examples(
    diagnoser: Diagnoser, drawn: Synthesiser, train: list[dict[str, Any]]
) -> None:
    """Other messages, and other pathologies kept out."""
    other = Synthesiser(diagnoser, SMALL, seed=18)
    texts = {example["text"] for example in train}
    assert len(texts & {example["text"] for example in other.train()}) <= 2
    assert other.hidden != drawn.hidden


def test_held_out_pathologies_are_never_in_training(
    drawn: Synthesiser, train: list[dict[str, Any]], knowledge: Knowledge
) -> None:
    """Neither drawn nor among the causes that the service finds in a training message."""
    names = {knowledge.pathologies[hidden].phrase for hidden in drawn.hidden}
    assert len(drawn.hidden) == SMALL.held_out_pathologies
    assert drawn.hidden.isdisjoint(example["origin"] for example in train)
    assert all(names.isdisjoint(example["facts"]["causes"]) for example in train)
    assert not any(name in reply for example in train for name in names for reply in [example["reply"]])


def test_half_of_the_evaluation_is_about_unseen_pathologies(drawn: Synthesiser, held_out: list[dict[str, Any]]) -> None:
    """Every second consultation comes from a pathology that training never saw."""
    hidden = [example["origin"] in drawn.hidden for example in held_out]
    assert hidden == [False, True] * (SMALL.held_out // 2)


def test_wordings_are_split_between_training_and_evaluation(drawn: Synthesiser, knowledge: Knowledge) -> None:
    """No wording is on both sides, none is lost, and about a third is kept out."""
    kept_out = total = 0
    for finding in knowledge.findings.values():
        every = {plain for wording in finding.lay for plain in spoken(wording)}
        seen, unseen = (set(drawn._wordings(finding, unseen=side)) for side in (False, True))
        if seen == unseen:
            assert seen == every  # one side would be empty: both have all
            continue
        assert not seen & unseen
        assert seen | unseen == every
        kept_out, total = kept_out + len(unseen), total + len(every)
    assert kept_out / total == pytest.approx(SMALL.held_out_wordings, abs=0.03)


class Watched(Synthesiser):
    """Remembers which side each message took its wordings from."""

    sides: set[bool]

    def _tell(self, *arguments: Any, unseen_wordings: bool) -> str:  # noqa: ANN401 - passed on as they are
        self.sides.add(unseen_wordings)
        return super()._tell(*arguments, unseen_wordings=unseen_wordings)


def test_each_set_takes_its_own_side_of_the_wordings(diagnoser: Diagnoser) -> None:
    """Training says things in the wordings for training, evaluation in the others."""
    watched = Watched(diagnoser, SMALL, seed=17)
    watched.sides = set()
    list(watched.train())
    assert watched.sides == {False}
    watched.sides = set()
    list(watched.held_out())
    assert watched.sides == {True}


def test_there_are_as_many_examples_as_asked_for(train: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> None:
    """Consultations, then the invented ones; none is invented in the evaluation."""
    invented = [example["origin"] == "invented" for example in train]
    assert invented == [False] * SMALL.consultations + [True] * SMALL.invented
    assert len(held_out) == SMALL.held_out
    assert "invented" not in {example["origin"] for example in held_out}


def test_an_example_holds_what_the_service_would_send(train: list[dict[str, Any]]) -> None:
    """The prompt is the service's own rendering of the facts and the message."""
    for example in train:
        facts = facts_from_json(example["facts"])
        assert pieces_of(example) == render(facts, example["text"], Style.SLOTS).pieces


def test_replies_have_slots_of_their_facts_only(train: list[dict[str, Any]]) -> None:
    """A slot in the reply stands in the prompt; names are never spelt."""
    for example in train:
        specials = {text for text, special in example["prompt"] if special}
        assert set(_SLOT.findall(example["reply"])) <= specials
        assert not any(cause in example["reply"] for cause in example["facts"]["causes"])


def test_plain_copying_spells_the_names_out(diagnoser: Diagnoser) -> None:
    """With `slots: false` the replies are the same with every slot filled in."""
    settings = {"consultations": 10, "invented": 5, "held_out": 10}
    with_slots = list(Synthesiser(diagnoser, SynthesiseConfig(**settings), 3).train())
    spelt = list(Synthesiser(diagnoser, SynthesiseConfig(**settings, slots=False), 3).train())
    expected = [spell_out(example["reply"], facts_from_json(example["facts"])) for example in with_slots]
    assert [example["reply"] for example in spelt] == expected


@given(st.integers(0, 2**32))
def test_facts_survive_json(seed: int) -> None:
    """Facts written to a file and read back are the same facts."""
    _, facts = synthesise._invented(random.Random(seed))
    assert facts_from_json(json.loads(json.dumps(facts_to_json(facts), ensure_ascii=False))) == facts


def test_invented_facts_cover_every_combination() -> None:
    """All levels with and without an alarm, abstained or not, about the writer or a relative."""
    rng = random.Random(1)
    facts = [synthesise._invented(rng)[1] for _ in range(1_000)]
    assert {(f.level, bool(f.alarm)) for f in facts} == {(level, alarm) for level in Urgency for alarm in (True, False)}
    assert {f.abstained for f in facts} == {f.probable for f in facts} == {True, False}
    assert {len(f.causes) for f in facts} == {0, 1, 2, 3}
    assert all(f.abstained == (not f.causes) for f in facts)
    assert all(f.phone for f in facts if f.level is Urgency.LIFE_THREATENING)


def test_drawn_findings_belong_to_the_pathology(knowledge: Knowledge) -> None:
    """One to seven listed findings that can be worded, no finding together with what it implies."""
    rng = random.Random(2)
    for pathology in knowledge.pathologies.values():
        listed = {link.finding for link in pathology.links if link.frequency is not Frequency.EXCLUDED}
        for _ in range(5):
            found = draw_findings(pathology, knowledge, rng)
            ids = {finding.id for finding in found}
            assert 1 <= len(found) == len(ids) <= 7
            assert ids <= listed
            assert not any(ids.intersection(knowledge.ancestors(finding)) for finding in ids)
            assert all(finding.lay for finding in found)


def test_a_drawn_patient_fits_the_pathology(knowledge: Knowledge) -> None:
    """Pre-eclampsia is a woman's, but for one draw in a thousand; a baby's disease is a baby's; ages stay in a life."""
    rng = random.Random(3)
    drawn = {
        name: [draw_patient(knowledge.pathologies[name], rng) for _ in range(200)]
        for name in ("preeclampsia", "bronchiolitis", "acute_prostatitis")
    }
    women = {name: sum(patient.sex == "F" for patient in patients) for name, patients in drawn.items()}
    assert women["acute_prostatitis"] <= 3
    assert 50 <= women["bronchiolitis"] <= 150
    assert women["preeclampsia"] >= 197
    ages = {name: sorted(patient.age or 0.0 for patient in patients) for name, patients in drawn.items()}
    assert ages["bronchiolitis"][100] < 2
    assert ages["preeclampsia"][20] >= 15
    assert all(0 <= age <= 95 for values in ages.values() for age in values)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration of a few examples in a folder of its own."""
    content = {
        "name": "tiny", "folder": str(tmp_path / "run"), "model": str(tmp_path / "tiny-Q4_K_M.gguf"),
        "synthesise": {"consultations": 10, "invented": 4, "held_out": 10}, "tokenizer": {"vocabulary": 400},
        "pretrain": {
            "hidden": 256, "layers": 1, "heads": 4, "kv_heads": 4, "feed_forward": 256, "batch_tokens": 512,
            "steps": 2, "learning_rate": 0.001, "warmup_steps": 0,
        },
        "evaluate": {},
    }  # fmt: skip
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def test_the_stage_writes_once(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files with their manifests; a second run does nothing, a touched file is made again."""
    monkeypatch.setattr("sys.argv", ["synthesise", "--config", str(config)])
    monkeypatch.setattr(synthesise, "load", base)  # the same knowledge base, loaded once
    synthesise.main()
    train, held_out = (config.parent / "run" / f"{name}.jsonl" for name in ("train", "held_out"))
    made = train.read_bytes()
    assert [len(path.read_text(encoding="utf-8").splitlines()) for path in (train, held_out)] == [14, 10]
    manifest = json.loads(manifest_of(train).read_text(encoding="utf-8"))
    assert manifest["config"]["prompt_id"] == prompt_id(Style.SLOTS)
    assert len(manifest["held_out_pathologies"]) == 10
    assert "pathologies.json" in manifest["inputs"]
    capsys.readouterr()
    synthesise.main()
    assert "nothing to do" in capsys.readouterr().err
    train.write_text("touched\n", encoding="utf-8")
    synthesise.main()
    assert train.read_bytes() == made
