"""What is claimed: every batch once, whole parts of large sets, and no job that is not worth its start."""

from collections import Counter

import pytest

from blspkd.errors import ConfigError
from blspkd.generation.shares import PER_JOB, Claims, check_job

SIZES = [(1000, 512, 32), (7, 3, 2), (1, 512, 32), (64, 32, 32), (10, 3, 100), (23, 5, 1), (100_000, 512, 32)]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("num_jobs", [1, 2, 3, 5, 20, 100])
def test_every_batch_of_every_part_is_in_one_claim(sizes, num_jobs):
    utterances, part_size, batch_size = sizes
    claims = Claims(*sizes, num_jobs)
    claimed = [(claim.part, number) for claim in claims for number in range(claim.batches.start, claim.batches.stop)]
    lengths = [min(part_size, utterances - start) for start in range(0, utterances, part_size)]
    assert claimed == [(index, number) for index, length in enumerate(lengths)
                       for number in range(-(-length // batch_size))]
    assert claims.num_batches == len(claimed)
    for claim in claims:
        of_part = -(-lengths[claim.part] // batch_size)
        assert claim.is_whole == (claim.batches == slice(0, of_part))


def test_small_sets_are_shared_by_batches_and_large_ones_by_parts():
    small, large = Claims(1000, 512, 32, 2), Claims(512 * PER_JOB * 2, 512, 32, 2)
    assert [claim.batches.stop - claim.batches.start for claim in small] == [4] * 8 and small.jobs_with_work == 8
    assert len(large) == PER_JOB * 2 and all(claim.is_whole for claim in large)
    assert Claims(31, 512, 32, 8).jobs_with_work == 1


@pytest.mark.parametrize("sizes", SIZES)
def test_jobs_begin_at_different_claims(sizes):
    claims = Claims(*sizes, 5)
    firsts = [claims.first_of_job(job, 5) for job in range(1, 6)]
    assert all(0 <= first < len(claims) for first in firsts) and len(set(firsts)) == min(5, len(claims))


def test_a_set_of_nothing_has_no_claims():
    claims = Claims(0, 512, 32, 2)
    assert len(claims) == 0 == claims.num_batches and list(claims) == []


@pytest.mark.parametrize(("job", "num_jobs"), [(0, 2), (3, 2), (1, 0)])
def test_job_numbers_out_of_range_are_refused(job, num_jobs):
    with pytest.raises(ConfigError, match="jobs are numbered"):
        check_job(job, num_jobs)


@pytest.mark.parametrize("sizes", [(0, 2), (3, 0)])
def test_sizes_below_one_are_refused(sizes):
    with pytest.raises(ConfigError, match="give a positive number"):
        Claims(7, *sizes, 1)


def test_large_parts_of_small_batches_make_no_more_files_than_a_folder_may_hold():
    claims = Claims(utterances=25_000, part_size=20_000, batch_size=1, num_jobs=4)
    per_part = Counter(claim.part for claim in claims)
    assert max(per_part.values()) <= 1000 and not any(claim.is_whole for claim in claims)
    batches = [batch for claim in claims if claim.part == 0 for batch in range(20_000)[claim.batches]]
    assert batches == list(range(20_000))
