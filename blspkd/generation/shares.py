"""Which job of stage 2 does which batches of which part."""

from math import ceil

from blspkd.errors import ConfigError

MIN_BATCHES = 4  # that are worth the start of a job, which loads the LLM


def work_of_job(utterances: int, part_size: int, batch_size: int, job: int, num_jobs: int) -> dict[int, slice]:
    """What job `job` (1 ... num_jobs) does: index of a part -> its batches of that part.

    The batches of all parts, in order, are shared out evenly among the jobs that have work, which are the first ones.
    """
    if not 1 <= job <= num_jobs:
        raise ConfigError(f"--job {job} --num_jobs {num_jobs}: jobs are numbered from 1 to num_jobs")
    total = num_batches(utterances, part_size, batch_size)
    num_jobs = min(num_jobs, jobs_with_work(total))
    first, end = min(total, total * (job - 1) // num_jobs), min(total, total * job // num_jobs)
    size = ceil(part_size / batch_size)  # batches of a part; the last part may have fewer
    return {index: slice(max(0, first - index * size), min(size, end - index * size))
            for index in range(first // size, ceil(end / size)) if first < end}


def jobs_with_work(batches: int) -> int:
    """How many jobs `batches` batches are worth: a job's start takes as long as some batches."""
    return max(1, batches // MIN_BATCHES)


def num_batches(utterances: int, part_size: int, batch_size: int) -> int:
    """How many batches there are in all parts together."""
    for name, value in ("part_size", part_size), ("batch_size", batch_size):
        if value < 1:
            raise ConfigError(f"{name}: {value} utterances; give a positive number")
    whole, rest = divmod(utterances, part_size)
    return whole * ceil(part_size / batch_size) + ceil(rest / batch_size)
