"""What a job of stage 2 does: it claims batches, continues them and saves them, until the whole set is done.

Jobs know one another only by the leases in `continuation.parts/leases`. So any number of them may start at any time, on
any machines, and die: what a job had claimed, another one claims after it.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from blspkd.generation.failures import DEATHS, Carefully, Writer, plan_batches, write_batch
from blspkd.generation.parts import Plan
from blspkd.generation.shares import Claim, Claims
from blspkd.kaldi.leases import Lease, Leases, share
from blspkd.progress import progress_bar


class ClaimNames(Sequence[str]):
    """The name of each claim's lease. What a part is made from is in it: deaths of other runs do not count."""

    def __init__(self, plan: Plan, claims: Claims):
        self.plan, self.claims = plan, claims

    def __len__(self) -> int:
        return len(self.claims)

    def __getitem__(self, index: int) -> str:
        claim, path = self.claims[index], self.plan.path(self.claims[index].part)
        of = "" if claim.is_whole else f"-batches-{claim.batches.start + 1:05d}-{claim.batches.stop:05d}"
        folder = path.parent.relative_to(self.plan.folder)
        return str(folder / f"{path.stem}{of}-{self.plan[claim.part].fingerprint[:8]}")


class Job:
    """One of the processes that share the work."""

    def __init__(self, plan: Plan, claims: Claims, writer: Writer, versions: Mapping[str, str]):
        self.plan, self.claims, self.writer, self.versions = plan, claims, writer, versions
        self.names = ClaimNames(plan, claims)
        self._batch_size = plan.settings["generation"]["batch_size"]
        self._batches = lru_cache(maxsize=64)(lambda part: plan_batches(writer, plan[part].transcripts))

    def run(self, first: int = 0) -> None:
        """Do what is missing, beginning with claim `first`; all is done when this returns."""
        leases = Leases(leases_dir(self.plan.folder))
        with progress_bar("continuations", total=len(self.plan.transcripts), unit="utt") as self.bar:
            share(self.names, leases, self.is_done, self.work, first)
            self.bar.update(len(self.plan.transcripts) - self.bar.n)  # what other jobs did

    def is_done(self, index: int) -> bool:
        """Whether the files of the part hold all of these utterances."""
        claim = self.claims[index]
        part = self.plan[claim.part]
        written = part.rows()
        if written.keys() >= part.transcripts.keys():
            return True
        return bool(written) and not claim.is_whole and not self._missing(claim, self._batches(claim.part), written)

    def work(self, index: int, lease: Lease) -> None:
        """Continue what is missing of a claim, and save it."""
        claim = self.claims[index]
        part = self.plan[claim.part]
        if lease.deaths < DEATHS:
            missing = self._missing(claim, self._batches(claim.part), part.rows())
            write = self.writer
            rows = [row for batch in missing for row in self._counted(write_batch(write, part.transcripts, batch))]
        else:
            careful = Carefully(self.writer, lease)
            missing = self._missing(claim, careful.plan(part.transcripts), part.rows())
            rows = [row for batch in missing for row in self._counted(careful.rows(part.transcripts, batch))]
        if lease.is_ours():  # else this process stood still, and another one has taken it over
            part.write(rows, self.plan.settings, self.versions, part.path_of(claim.batches, self._batch_size))

    def _missing(self, claim: Claim, batches: list[list[str]], written: Mapping[str, dict]) -> list[list[str]]:
        """The batches of a claim with an utterance that no file of the part holds."""
        return [batch for batch in batches[claim.batches] if not written.keys() >= set(batch)]

    def _counted(self, rows: list[dict]) -> list[dict]:
        self.bar.update(len(rows))
        return rows


def leases_dir(folder: Path) -> Path:
    """Where the leases of the parts in `folder` are."""
    return folder / "leases"
