"""What the jobs of stage 2 claim, one after the other: parts, or where these are few, some batches of a part."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from blspkd.errors import ConfigError

MIN_BATCHES = 4  # that are worth the start of a job, which loads the LLM
MOST = 500  # claims of a part: each may write a file into its folder
PER_JOB = 8  # parts for each job, from which on whole parts are claimed


@dataclass(frozen=True)
class Claim:
    """Batches of a part."""

    part: int  # its index
    batches: slice
    is_whole: bool  # they are all that the part has


class Claims(Sequence[Claim]):
    """All claims on the batches of all parts, in order; every batch is in one."""

    def __init__(self, utterances: int, part_size: int, batch_size: int, num_jobs: int):
        for name, value in ("part_size", part_size), ("batch_size", batch_size):
            if value < 1:
                raise ConfigError(f"{name}: {value} utterances; give a positive number")
        self._parts = ceil(utterances / part_size)
        self._batches = ceil(part_size / batch_size)  # of a part but the last one
        self._of_last = ceil((utterances - part_size * (self._parts - 1)) / batch_size) if utterances else 0
        self.num_batches = self._batches * (self._parts - 1) + self._of_last if utterances else 0
        self._smallest = self._count(self._batches), self._count(self._of_last)  # claims of a part, of the last one
        whole = self._parts >= PER_JOB * num_jobs
        self._claims = (1, 1) if whole else self._smallest

    @property
    def jobs_with_work(self) -> int:
        """How many jobs the batches are worth: a job's start takes as long as some batches."""
        return max(1, self._smallest[0] * (self._parts - 1) + self._smallest[1])

    def __len__(self) -> int:
        return self._claims[0] * (self._parts - 1) + self._claims[1] if self._parts else 0

    def __getitem__(self, index: int) -> Claim:
        index = range(len(self))[index]
        part = min(index // self._claims[0], self._parts - 1)
        last = part == self._parts - 1
        batches, claims = (self._of_last, self._claims[1]) if last else (self._batches, self._claims[0])
        number = index - part * self._claims[0]
        return Claim(part, slice(batches * number // claims, batches * (number + 1) // claims), claims == 1)

    def first_of_job(self, job: int, num_jobs: int) -> int:
        """Where job `job` (1 ... num_jobs) begins to look: not where the others do."""
        return len(self) * (job - 1) // num_jobs if len(self) else 0

    @staticmethod
    def _count(batches: int) -> int:
        return min(MOST, max(1, batches // MIN_BATCHES))


def check_job(job: int, num_jobs: int) -> None:
    """Raise ConfigError unless there is such a job."""
    if not 1 <= job <= num_jobs:
        raise ConfigError(f"--job {job} --num_jobs {num_jobs}: jobs are numbered from 1 to num_jobs")
