"""What Prometheus reads: counts, times and what is under way. Labels are this server's words, never a client's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from .engine import Engine
    from .jobs import Jobs

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Of one server; nothing is registered elsewhere."""

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self.registry = CollectorRegistry()
        self.answers = Counter(
            "strandscope_answers", "Answers, by route and status.", ["route", "status"], registry=self.registry
        )
        self.first = Histogram(
            "strandscope_first_token_seconds", "From a request to its first token.", buckets=_SECONDS, registry=self.registry
        )
        self.whole = Histogram(
            "strandscope_reply_seconds", "From a request to its end.", buckets=_SECONDS, registry=self.registry
        )
        self.ends = Counter("strandscope_replies", "Replies, by what ended them.", ["why"], registry=self.registry)
        self.alarms = Counter("strandscope_alarms", "Alarms of monitors in replies.", registry=self.registry)
        self.registry.register(_Now(engine, jobs))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _Now:
    """What the engine counts, read when it is asked for."""

    def __init__(self, engine: Engine, jobs: Jobs) -> None:
        self.engine, self.jobs = engine, jobs

    def collect(self) -> Iterator[Metric]:
        engine, counts = self.engine, self.engine.counts
        gauges: dict[str, tuple[str, Any]] = {
            "rows": ("Requests that are decoded now.", engine.running),
            "waiting": ("Requests that wait for their turn.", engine.waiting),
            "cache_positions": ("Positions that the cache holds now, padding counted.", engine.positions),
            "jobs": ("Pieces of long work that wait or run.", sum(not job.future.done() for job in self.jobs.all())),
        }
        for name, (told, value) in gauges.items():
            yield GaugeMetricFamily(f"strandscope_{name}", told, value)
        totals = {
            "requests": ("Requests that were taken.", counts.requests),
            "prompt_tokens": ("Tokens of prompts that were read.", counts.prompt_tokens),
            "tokens": ("Tokens that were written.", counts.tokens),
            "passes": ("Passes of the network.", counts.passes),
            "pass_seconds": ("Seconds in passes of the network.", counts.seconds),
        }
        for name, (told, value) in totals.items():
            yield CounterMetricFamily(f"strandscope_{name}", told, value)
