"""Consultations drawn from the knowledge base: a message, the facts the service finds in it, and a good reply.

A cause is drawn (evenly), then an age, a sex and findings by their frequencies, a third of them left unsaid; the
message says them in lay wordings. The *service itself* reads the message, so the prompt holds what it will hold in
production, mistakes included. Some examples have invented names and signs instead, in every combination of urgency
and facts: names, advice and urgency must come from the prompt. Ten pathologies and a third of the wordings are
kept out, for evaluation.

    python -m training.synthesise --config training/configs/mini.yaml
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from backend.core.diagnose import Diagnoser
from backend.core.entities import Finding, Frequency, Pathology, Patient, Urgency
from backend.core.facts import Facts, facts_of
from backend.core.knowledge import DATA, FILES, Knowledge, load
from backend.core.lexicon import spoken
from backend.core.prompt import Piece, Style, prompt_id, render, tone_of
from backend.core.weights import BANDS, P_OF_CLASS, RATE_OF_CLASS, SEX_SHARE
from training.artefacts import is_done, say, write_manifest
from training.config import SynthesiseConfig, scratch_from_args
from training.paths import held_out_path, train_path
from training.replies import PHRASES, Composer, spell_out

_MESSAGES = Path(__file__).with_name("messages.json")
UNSAID = 1 / 3
_MOST_FINDINGS = 7
_LAST_AGE = 95.0


def main() -> None:
    """Run the stage."""
    run = scratch_from_args(__doc__ or "")
    train, held_out = train_path(run), held_out_path(run)
    inputs = [*(DATA / name for name in FILES), PHRASES, _MESSAGES]
    config = {**run.synthesise.model_dump(), "prompt_id": prompt_id(Style.SLOTS)}
    if all(is_done(path, inputs, config, run.seed) for path in (train, held_out)):
        say("synthesise: nothing to do")
        return
    run.folder.mkdir(parents=True, exist_ok=True)
    diagnoser = Diagnoser(load())
    synthesiser = Synthesiser(diagnoser, run.synthesise, run.seed)
    _write(train, synthesiser.train())
    _write(held_out, synthesiser.held_out())
    for path in (train, held_out):
        write_manifest(path, "synthesise", inputs, config, run.seed, held_out_pathologies=sorted(synthesiser.hidden))
    say(f"synthesise: {train} and {held_out} written")


def _write(path: Path, examples: Iterator[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for count, example in enumerate(examples, 1):
            file.write(json.dumps(example, ensure_ascii=False) + "\n")
            if count % 1000 == 0:
                say(f"synthesise: {path.name} {count}")


class Synthesiser:
    """Draws examples from one knowledge base; the same seed gives the same examples."""

    def __init__(self, diagnoser: Diagnoser, config: SynthesiseConfig, seed: int) -> None:
        self._diagnoser = diagnoser
        self._config = config
        self._seed = seed
        self._messages = json.loads(_MESSAGES.read_text(encoding="utf-8"))
        self._composer = Composer()
        shuffled = sorted(diagnoser.knowledge.pathologies)
        random.Random(seed).shuffle(shuffled)
        self.hidden = frozenset(shuffled[: config.held_out_pathologies])

    def train(self) -> Iterator[dict[str, Any]]:
        """Training examples: consultations about the other pathologies, and invented ones."""
        rng = random.Random(f"{self._seed}/train")
        known = [p for p in self._diagnoser.knowledge.pathologies.values() if p.id not in self.hidden]
        hidden_names = {self._diagnoser.knowledge.pathologies[p].phrase for p in self.hidden}
        made = 0
        while made < self._config.consultations:
            pathology = rng.choice(known)
            text, facts = self._consult(pathology, rng, unseen_wordings=False)
            if hidden_names.intersection(facts.causes):
                continue
            made += 1
            yield self._example(text, facts, rng, pathology.id)
        for _ in range(self._config.invented):
            yield self._example(*_invented(rng), rng, "invented")

    def held_out(self) -> Iterator[dict[str, Any]]:
        """Unseen consultations in unseen wordings, half of them about unseen pathologies."""
        rng = random.Random(f"{self._seed}/held_out")
        everyone = self._diagnoser.knowledge.pathologies
        hidden = [everyone[p] for p in sorted(self.hidden)]
        known = [p for p in everyone.values() if p.id not in self.hidden]
        for index in range(self._config.held_out):
            pathology = rng.choice(hidden if index % 2 else known)
            text, facts = self._consult(pathology, rng, unseen_wordings=True)
            yield self._example(text, facts, rng, pathology.id)

    def _example(self, text: str, facts: Facts, rng: random.Random, origin: str) -> dict[str, Any]:
        reply = self._composer.compose(facts, tone_of(facts), rng)
        if not self._config.slots:
            reply = spell_out(reply, facts)
        prompt = render(facts, text, Style.SLOTS)
        return {
            "origin": origin,
            "text": text,
            "facts": facts_to_json(facts),
            "prompt": [[piece.text, piece.special] for piece in prompt.pieces],
            "reply": reply,
        }

    def _consult(self, pathology: Pathology, rng: random.Random, *, unseen_wordings: bool) -> tuple[str, Facts]:
        patient = draw_patient(pathology, rng)
        findings = draw_findings(pathology, self._diagnoser.knowledge, rng)
        text = self._tell(findings, patient, rng, unseen_wordings=unseen_wordings)
        assessment = self._diagnoser.assess(text, Patient(patient.age, patient.sex))
        return text, facts_of(assessment)

    def _tell(self, findings: Sequence[Finding], patient: Patient, rng: random.Random, *, unseen_wordings: bool) -> str:
        messages = self._messages
        child = patient.age is not None and patient.age < 12
        someone_else = child or rng.random() < 0.15
        who = rng.choice([w for w in messages["who"] if not child or w in ("ma fille", "mon fils", "mon bébé")])
        said = [rng.choice(self._wordings(finding, unseen=unseen_wordings)) for finding in findings]
        parts = []
        for index, wording in enumerate(said):
            frame = rng.choice(messages["state_other"] if someone_else and index == 0 else messages["state"])
            parts.append(frame.format(x=wording, who=who))
        since = rng.choice(messages["since"])
        if since:
            parts.insert(rng.randrange(len(parts) + 1), since)
        age = "" if patient.age is None else rng.choice(messages["age"]).format(age=max(1, int(patient.age)))
        body = rng.choice(messages["openings"]) + ", ".join(parts) + ". "
        return " ".join(f"{body}{age if not someone_else else ''} {rng.choice(messages['closings'])}".split())

    def _wordings(self, finding: Finding, *, unseen: bool) -> list[str]:
        """The finding's wordings for training, or those kept out (all of them when a side would be empty)."""
        every = [plain for wording in finding.lay for plain in spoken(wording)]
        kept = [wording for wording in every if self._is_kept_out(wording) == unseen]
        return kept or every

    def _is_kept_out(self, wording: str) -> bool:
        value = int(sha256(f"{self._seed}/{wording}".encode()).hexdigest()[:8], 16) / 0xFFFFFFFF
        return value < self._config.held_out_wordings


def draw_patient(pathology: Pathology, rng: random.Random) -> Patient:
    """An age by the pathology's prevalence and the age bands' shares, and a sex by its profile."""
    weights = [RATE_OF_CLASS[pathology.prevalence[band.name]] * band.share for band in BANDS]
    band = rng.choices(range(len(BANDS)), weights)[0]
    first = BANDS[band].first_age
    last = BANDS[band + 1].first_age if band + 1 < len(BANDS) else _LAST_AGE
    women, men = SEX_SHARE[pathology.sex]
    return Patient(age=round(rng.uniform(first, last), 1), sex=rng.choices(("F", "M"), (women, men))[0])


def draw_findings(pathology: Pathology, knowledge: Knowledge, rng: random.Random) -> list[Finding]:
    """Findings by their frequencies, a third of them unsaid, at least one, the important ones first."""
    usual = [link for link in pathology.links if link.frequency is not Frequency.EXCLUDED]
    present = [link.finding for link in usual if rng.random() < P_OF_CLASS[link.frequency]]
    said = [finding for finding in present if rng.random() > UNSAID] or present[:1] or [usual[0].finding]
    parents = {parent for finding in said for parent in knowledge.ancestors(finding)}
    findings = [knowledge.findings[f] for f in said if f not in parents and knowledge.findings[f].lay]
    rng.shuffle(findings)
    findings.sort(key=lambda finding: -finding.importance)
    kept = findings[:_MOST_FINDINGS]
    rng.shuffle(kept)
    return kept


_SYLLABLES = (
    "ba", "bo", "bri", "ca", "chi", "co", "cra", "da", "dé", "dro", "fa", "fi", "flo", "ga", "gli", "go",
    "ja", "jo", "ka", "la", "lé", "li", "lo", "ma", "mi", "mo", "né", "ni", "no", "pa", "pi", "plé", "po",
    "qua", "ra", "ré", "ri", "ro", "sa", "sé", "si", "so", "ta", "té", "ti", "to", "tra", "va", "vé", "vi",
    "vo", "za", "zo",
)  # fmt: skip
_ENDINGS = ("ite", "ose", "ome", "ie", "algie", "pathie", "ine", "ure", "ique", "isme")


def _invented_name(rng: random.Random) -> str:
    return rng.choice(("une ", "une ", "un ", "la ", "l'", "des ")) + "".join(
        rng.choice(_SYLLABLES) for _ in range(rng.randint(1, 3))
    ) + rng.choice(_ENDINGS)  # fmt: skip


def _invented(rng: random.Random) -> tuple[str, Facts]:
    """A consultation whose names mean nothing, in any combination of urgency and facts."""
    level = rng.choice(list(Urgency))
    abstained = rng.random() < 0.08
    who = rng.choice(("vous", "vous", "vous", "votre fille", "votre fils", "votre mari", "votre mère", "votre père"))
    signs = tuple(
        f"{_invented_name(rng)} {rng.choice(('le soir', 'brutale', 'à droite', 'légère', ''))}".strip()
        for _ in range(rng.randint(0, 3))
    )
    alarmed = rng.random() < (0.6 if level.rank >= Urgency.EMERGENCY_DEPARTMENT.rank else 0.1)
    facts = Facts(
        level=Urgency.DOCTOR_24_HOURS if abstained and level is Urgency.SELF_CARE else level,
        who=who,
        abstained=abstained,
        probable=not abstained and rng.random() < 0.5,
        causes=() if abstained else tuple(_invented_name(rng) for _ in range(rng.randint(1, 3))),
        signs=() if abstained else signs,
        alarm=_invented_name(rng) if alarmed else None,
        phone=rng.choice(("3114", "119", "3919", "centre antipoison"))
        if alarmed and rng.random() < 0.3
        else "15"
        if level is Urgency.LIFE_THREATENING
        else None,
        advice=None if abstained or rng.random() < 0.3 else "Conseil.",
        worry=None if abstained or level is Urgency.LIFE_THREATENING else "Consultez sans attendre si cela change.",
        questions=("Où avez-vous mal ?", "Depuis quand ?")[: rng.randint(0, 2)] if abstained else (),
    )
    return " ".join(_invented_name(rng) for _ in range(rng.randint(2, 12))), facts


def facts_to_json(facts: Facts) -> dict[str, Any]:
    """Facts as JSON values; `facts_from_json` is the inverse."""
    return {
        "level": facts.level.value, "who": facts.who, "abstained": facts.abstained, "probable": facts.probable,
        "causes": list(facts.causes), "signs": list(facts.signs), "alarm": facts.alarm, "phone": facts.phone,
        "advice": facts.advice, "worry": facts.worry, "questions": list(facts.questions),
    }  # fmt: skip


def facts_from_json(row: dict[str, Any]) -> Facts:
    """The facts of one example."""
    return Facts(
        level=Urgency(row["level"]), who=row["who"], abstained=row["abstained"], probable=row["probable"],
        causes=tuple(row["causes"]), signs=tuple(row["signs"]), alarm=row["alarm"], phone=row["phone"],
        advice=row["advice"], worry=row["worry"], questions=tuple(row["questions"]),
    )  # fmt: skip


def pieces_of(example: dict[str, Any]) -> tuple[Piece, ...]:
    """The prompt of one example."""
    return tuple(Piece(text, special) for text, special in example["prompt"])


if __name__ == "__main__":
    main()
