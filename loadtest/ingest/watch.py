"""One process while it takes events over: when it had how many, at which cost, and in how much memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ingest.servers import Marquee, cpu_s, resident_mb

SAMPLE_S = 0.2
# Without any progress for so long, something is wrong.
STUCK_S = 60.0
# Over the second half: less growth than this share of what is resident is none, ...
FLAT_SHARE = 0.05
# ... and a run of fewer events than this is too short to tell: caches and pools still fill.
TELLING_EVENTS = 5_000_000


@dataclass(frozen=True)
class Sample:
    """One look."""

    moment: float
    events: int
    cpu_s: Mapping[str, float]
    resident_mb: float


@dataclass(frozen=True)
class Taken:
    """From the first row to the last."""

    samples: Sequence[Sample]

    @property
    def seconds(self) -> float:
        """Wall time."""
        return self.samples[-1].moment - self.samples[0].moment

    @property
    def rate(self) -> float:
        """Events a second."""
        return (self.samples[-1].events - self.samples[0].events) / self.seconds

    def cpu_us(self, *names: str) -> float:
        """Microseconds of these processes an event."""
        first, last = self.samples[0], self.samples[-1]
        used = sum(last.cpu_s[name] - first.cpu_s[name] for name in names)
        return used * 1e6 / (last.events - first.events)

    def growth(self) -> Growth:
        """Of the second half, by least squares."""
        half = [sample for sample in self.samples if sample.events >= self.samples[-1].events / 2]
        x = [sample.events / 1e6 for sample in half]
        y = [sample.resident_mb for sample in half]
        middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
        spread = sum((at - middle_x) ** 2 for at in x)
        slope = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True)) / spread if spread else 0.0
        line = (middle_y + slope * (at - middle_x) for at in x)
        deviation = (sum((a - b) ** 2 for a, b in zip(y, line, strict=True)) / len(y)) ** 0.5
        tenths = [
            min(self.samples, key=lambda sample: abs(sample.events - self.samples[-1].events * tenth / 10)).resident_mb
            for tenth in range(11)
        ]
        return Growth(slope, slope * (x[-1] - x[0]), middle_y, deviation, tenths)


@dataclass(frozen=True)
class Growth:
    """Of resident memory."""

    mb_per_million: float
    grown_mb: float
    mean_mb: float
    deviation_mb: float
    tenths_mb: Sequence[float]

    @property
    def is_flat(self) -> bool:
        """Whether it hardly grows."""
        return self.grown_mb <= FLAT_SHARE * self.mean_mb


def watch(marquee: Marquee, wanted: int, others: Mapping[str, int]) -> Taken:
    """Looks until it has all of them."""
    samples: list[Sample] = []
    moved = time.monotonic()
    while not samples or samples[-1].events < wanted:
        if marquee.process.poll() is not None:
            raise SystemExit(f"marquee ended with {marquee.process.returncode}")
        events, moment = marquee.ingested(), time.monotonic()
        if events and (not samples or samples[-1].events < events):
            moved = moment
        if moment - moved > STUCK_S:
            raise SystemExit(f"only {samples[-1].events if samples else 0} of {wanted} events came")
        if events:
            pids = {"server": marquee.process.pid, **others}
            cpu = {name: cpu_s(pid) for name, pid in pids.items()}
            samples.append(Sample(moment, events, cpu, resident_mb(marquee.process.pid)))
        time.sleep(SAMPLE_S if events else SAMPLE_S / 10)
    return Taken(samples)
