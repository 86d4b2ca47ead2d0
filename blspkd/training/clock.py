"""Where the time of a training goes: waiting for data, forward, backward, communication, and the rest.

On a GPU the time is the GPU's, from events between its kernels: nothing waits for it before a log line is written. The
gradients' communication overlaps the backward pass, of which it is no part; layers in parts (training/sharding.py) come
within forward and backward.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from blspkd.data.batching import Batch

PARTS = ("data", "forward", "backward", "validation", "checkpoint", "other")  # other: optimiser, waiting for counts
COUNTS = ("positions", "padded", "audio")  # LLM positions with a token, and in all; seconds of audio
MOST_RANKS = 16  # that are shown one by one

Mark = float | torch.cuda.Event


@dataclass
class Clock:
    """Spans of this process since the last report, one behind the other, and of communication beside them."""

    device: torch.device
    part: str = ""  # empty: before the first step
    since: Mark = 0.0
    spans: list[tuple[str, Mark, Mark]] = field(default_factory=list)
    messages: list[tuple[Mark, Mark]] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0.0))
    steps: int = 0

    def mark(self) -> Mark:
        """Now, on the device."""
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def enter(self, part: str) -> None:
        """From now on time goes to `part`."""
        now = self.mark()
        if self.part:
            self.spans.append((self.part, self.since, now))
        self.part, self.since = part, now

    def count(self, batch: Batch) -> None:
        """What a micro-batch consists of; its lengths are on the CPU."""
        lengths = batch.sequences.lengths
        self.counts["positions"] += int(lengths.sum())
        self.counts["padded"] += batch.sequences.ids.numel()
        self.counts["audio"] += sum(example.duration for example in batch.examples)

    def watch(self, model: DistributedDataParallel) -> None:
        """Have the gradients' communication timed; what is communicated is the same."""
        def timed(group: dist.ProcessGroup | None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            start = self.mark()

            def done(future: torch.futures.Future[Tensor]) -> Tensor:
                self.messages.append((start, self.mark()))
                return future.value()

            return allreduce_hook(group, bucket).then(done)

        model.register_comm_hook(None, timed)

    def report(self) -> dict[str, float]:
        """What is logged, means over the steps since the last report; all ranks call this, with as many steps.

        time_<part>: seconds of a step, the mean over ranks, and rank by rank.
        """
        self.enter(self.part)
        own = torch.tensor([*self._seconds().values(), *self.counts.values()], dtype=torch.float64, device=self.device)
        ranks = [own]
        if dist.is_initialized() and dist.get_world_size() > 1:
            ranks = [torch.empty_like(own) for _ in range(dist.get_world_size())]
            dist.all_gather(ranks, own)
        seconds, counts = torch.stack(ranks).cpu().split([len(PARTS) + 1, len(COUNTS)], 1)
        wall = float(seconds[:, :len(PARTS)].sum(1).max())
        positions, padded, audio = counts.sum(0).tolist()
        logs = {f"time_{name}": value for name, value in self._named(seconds.mean(0))}
        if 1 < len(ranks):
            for rank in range(min(len(ranks), MOST_RANKS)):
                logs |= {f"time_{name}_rank{rank}": value for name, value in self._named(seconds[rank])}
        logs |= {"tokens_per_second": positions / wall, "audio_seconds_per_second": audio / wall,
                 "padding": 100 * (1 - positions / max(1.0, padded))}
        self.steps, self.counts = 0, dict.fromkeys(COUNTS, 0.0)
        self.spans.clear()
        self.messages.clear()
        return logs

    def _named(self, seconds: Tensor) -> Iterator[tuple[str, float]]:
        return zip((*PARTS, "communication"), (seconds / max(1, self.steps)).tolist(), strict=True)

    def _seconds(self) -> dict[str, float]:
        totals = dict.fromkeys((*PARTS, "communication"), 0.0)
        if not self.spans:
            return totals
        if self.device.type == "cuda":
            self.since.synchronize()
        base = self.spans[0][1]
        for part, start, end in self.spans:
            totals[part] += self._between(start, end)
        until = 0.0
        for start, end in sorted((self._between(base, start), self._between(base, end))
                                 for start, end in list(self.messages)):
            totals["communication"] += max(0.0, end - max(start, until))  # buckets overlap one another
            until = max(until, end)
        return totals

    @staticmethod
    def _between(start: Mark, end: Mark) -> float:
        """Seconds."""
        return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000


def readable(logs: dict[str, float]) -> str:
    """One line of what `Clock.report` found."""
    parts = "  ".join(f"{name} {logs[f'time_{name}']:.3g}" for name in (*PARTS, "communication")
                      if logs[f"time_{name}"])
    slowest = ""
    ranks = [key.rpartition("rank")[2] for key in logs if key.startswith("time_data_rank")]
    if ranks:
        work = {rank: sum(logs[f"time_{name}_rank{rank}"] for name in ("data", "forward")) for rank in ranks}
        rank = max(work, key=work.get)
        slowest = f"; most data and forward: rank {rank}, {work[rank]:.3g}"
    return (f"seconds a step: {parts}{slowest}; {logs['tokens_per_second']:.4g} LLM positions and "
            f"{logs['audio_seconds_per_second']:.4g} s of audio a second; {logs['padding']:.3g} % padding")
