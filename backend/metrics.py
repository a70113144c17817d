"""Prometheus metrics. Labels are closed lists (routes, statuses, levels, reasons): never text from a request."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """The metrics of one app, in a registry of its own so that several apps can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("doctis_requests_total", "HTTP requests.", ["route", "status"], registry=self.registry)
        self.assessment_seconds = Histogram(
            "doctis_assessment_seconds", "Time to assess a message, without the reply.",
            buckets=_SECONDS, registry=self.registry,
        )  # fmt: skip
        self.urgency = Counter(
            "doctis_urgency_total", "Assessments by level of care.", ["level"], registry=self.registry
        )
        self.outcome = Counter("doctis_outcome_total", "Assessments by outcome.", ["outcome"], registry=self.registry)
        self.replies = Counter(
            "doctis_replies_total", "Written replies by source, and why the template answered.",
            ["source", "reason"], registry=self.registry,
        )  # fmt: skip
        self.refusals = Counter(
            "doctis_guard_refusals_total", "Sentences of the model that the guard refused.", ["rule"],
            registry=self.registry,
        )  # fmt: skip
        self.reply_seconds = Histogram(
            "doctis_reply_seconds", "Time to write a reply.", buckets=_SECONDS, registry=self.registry
        )
        self.in_flight = Gauge("doctis_in_flight", "Requests to /diagnose under way.", registry=self.registry)

    def render(self) -> bytes:
        """The metrics in the Prometheus text format."""
        return generate_latest(self.registry)
