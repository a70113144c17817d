"""One request, start to end: read this first.

    text -> findings and persons -> red flags -> ranking -> urgency -> questions

Everything a person is told, but the written reply, is decided here in milliseconds by rules and numbers. The reply
is worded afterwards from the `Assessment` (`prompt.py`, `guard.py`, `wording.py`) and can change nothing in it.

Try it: `python -m backend.core.diagnose "J'ai mal au ventre en bas à droite et un peu de fièvre"`
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from backend.core.entities import Answer, Assessment, Observation, Origin, Outcome, Patient, State
from backend.core.knowledge import Knowledge
from backend.core.questions import choose_questions
from backend.core.ranking import Ranking
from backend.core.red_flags import red_flags_of
from backend.core.understand import Reading, read_message
from backend.core.urgency import harm_of_causes, is_enough, raised, triage

DEFAULT_RESULTS = 5


class Diagnoser:
    """The knowledge base and its ranking, ready to assess messages. Frozen; safe to share between threads."""

    def __init__(self, knowledge: Knowledge, ranking: Ranking | None = None) -> None:
        self.knowledge = knowledge
        self.ranking = ranking or Ranking(knowledge)

    def assess(
        self, text: str, patient: Patient, answers: Sequence[Answer] = (), max_results: int = DEFAULT_RESULTS
    ) -> Assessment:
        """Assess one message (as sent). Fields win over the text for ranking; for red flags either suffices."""
        started = time.perf_counter()
        reading = read_message(text, patient, self.knowledge)
        known = tuple(answer for answer in answers if answer.finding in self.knowledge.findings)
        ignored = tuple(answer.finding for answer in answers if answer.finding not in self.knowledge.findings)
        ranked_as = _merge(patient, reading.patient)
        observations = _observe(reading, known, ranked_as, self.knowledge)
        understood = time.perf_counter()

        fired = red_flags_of(reading, observations, patient, self.knowledge)
        scores = self.ranking.score(observations, ranked_as)
        abstained = not is_enough(observations, scores.p_other)
        sides = [(observations, ranked_as), *_rivals(reading, self.knowledge)]
        of_causes = harm_of_causes(sides, fired, self.ranking)
        order = scores.order
        verdict = triage(fired, of_causes.level, self.ranking.pathologies[order[0]], abstained)
        spoken_of = frozenset(f for o in observations for f in (o.finding.id, *self.knowledge.ancestors(o.finding.id)))
        questions = choose_questions(scores, spoken_of, verdict.level, ranked_as, self.knowledge, self.ranking.weights)
        if words := self.knowledge.alarm.raise_level(verdict.level, of_causes.shares, ranked_as, reading.pieces):
            verdict = raised(verdict, words.level, reading.document.quote(words.start, words.end))
        return Assessment(
            outcome=Outcome.ABSTAINED if abstained else Outcome.ANSWERED,
            triage=verdict,
            differential=tuple(self.ranking.explain(scores, column) for column in order[:max_results]),
            p_other=scores.p_other,
            p_not_shown=float(scores.p_D[order[max_results:]].sum()),
            observations=observations,
            unmatched=reading.unmatched,
            questions=questions,
            ignored_evidence=ignored,
            patient=ranked_as,
            person=self.knowledge.cues.called(reading.person),
            understand_ms=1000 * (understood - started),
            rank_ms=1000 * (time.perf_counter() - understood),
        )


def _merge(fields: Patient, text: Patient) -> Patient:
    """Fields win; what they do not say is taken from the text."""
    return Patient(
        age=fields.age if fields.age is not None else text.age,
        sex=fields.sex or text.sex,
        pregnant=fields.pregnant if fields.pregnant is not None else text.pregnant,
    )


def _observe(
    reading: Reading, answers: Sequence[Answer], patient: Patient, knowledge: Knowledge
) -> tuple[Observation, ...]:
    """The findings of the answer: those of the text, in order, then the answers, which win for their finding."""
    answered = {answer.finding for answer in answers}
    observations = [
        Observation(
            knowledge.findings[m.finding],
            m.state,
            Origin.TEXT,
            m.start,
            m.end,
            reading.document.quote(m.start, m.end),
            m.guesses,
        )
        for m in reading.mentions
        if m.finding not in answered
    ]
    observations += [Observation(knowledge.findings[a.finding], a.state, Origin.ANSWER) for a in answers]
    told = {o.finding.id for o in observations}
    if patient.pregnant is not None and "pregnancy" in knowledge.findings and "pregnancy" not in told:
        state = State.PRESENT if patient.pregnant else State.ABSENT
        observations.append(Observation(knowledge.findings["pregnancy"], state, Origin.ANSWER))
    return tuple(observations)


def _rivals(reading: Reading, knowledge: Knowledge) -> Iterator[tuple[tuple[Observation, ...], Patient]]:
    """Other persons who have about as many complaints as the patient: who is ill was perhaps misread."""
    own = sum(m.finding in knowledge.complaints and m.state is State.PRESENT for m in reading.mentions)
    for person, traits in reading.others.items():
        current = [m for m in reading.mentions if m.person == person and m.state is State.OTHER and not m.remote]
        if sum(m.finding in knowledge.complaints for m in current) >= max(1, own - 1):
            yield tuple(Observation(knowledge.findings[m.finding], State.PRESENT, Origin.TEXT) for m in current), traits


if __name__ == "__main__":
    import sys

    from backend.core.knowledge import load

    result = Diagnoser(load()).assess(" ".join(sys.argv[1:]), Patient())
    print(result.triage.level, "|", result.triage.message)
    for cause in result.differential:
        print(f"{cause.probability:6.1%}  {cause.pathology.name}  ({cause.pathology.urgency})")
        for item in (*cause.evidence_for, *cause.evidence_against):
            print(f"        {item.weight:+.2f}  {item.label}" + (f"  « {item.quote} »" if item.quote else ""))
    for question in result.questions:
        print("?", question.text, "|", question.why)
