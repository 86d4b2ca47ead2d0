"""Which job does what: everything once, jobs alike, and none that is not worth its start."""

import pytest

from blspkd.errors import ConfigError
from blspkd.generation.shares import work_of_job


@pytest.mark.parametrize(("utterances", "part_size", "batch_size"), [(1000, 512, 32), (7, 3, 2), (1, 512, 32),
                                                                     (64, 32, 32), (10, 3, 100)])
@pytest.mark.parametrize("num_jobs", [1, 2, 3, 5, 20, 100])
def test_every_batch_of_every_part_is_done_by_one_job_and_jobs_do_equally_many(utterances, part_size, batch_size,
                                                                               num_jobs):
    works = [work_of_job(utterances, part_size, batch_size, job + 1, num_jobs) for job in range(num_jobs)]
    done = [(index, number) for work in works for index, batches in work.items()
            for number in range(batches.start, batches.stop)]
    lengths = [min(part_size, utterances - start) for start in range(0, utterances, part_size)]
    assert done == [(index, number) for index, length in enumerate(lengths)
                    for number in range(-(-length // batch_size))]
    counts = [sum(batches.stop - batches.start for batches in work.values()) for work in works if work]
    assert max(counts) - min(counts) <= 1
    assert len(counts) == min(num_jobs, max(1, len(done) // 4))
    assert all(works[:len(counts)])


@pytest.mark.parametrize(("job", "num_jobs"), [(0, 2), (3, 2), (1, 0)])
def test_job_numbers_out_of_range_are_refused(job, num_jobs):
    with pytest.raises(ConfigError, match="jobs are numbered"):
        work_of_job(7, 3, 2, job, num_jobs)


@pytest.mark.parametrize("sizes", [(0, 2), (3, 0)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ConfigError, match="give a positive number"):
        work_of_job(7, *sizes, 1, 1)
