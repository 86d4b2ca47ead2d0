"""Domains in asked proportions, drawn per epoch; nothing twice unless it is asked for more often than it is there."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blspkd.audio.samples import AudioSource
from blspkd.config import DataConfig
from blspkd.data.batching import BatchPlan
from blspkd.data.examples import Example
from blspkd.data.operations import apply_operations, make_operations
from blspkd.data.operations.mix import Mix
from blspkd.errors import ConfigError, DataError

NOTHING = np.zeros(1, dtype=np.int32)
CONFIG = DataConfig(batch_utterances=4)


@pytest.fixture
def mixed(tmp_path):
    def mix(domains: dict[str, str], weights: dict[str, float], *, examples=None, table="utt2domain"):
        """Examples of utterances with these domains, mixed: (examples, report)."""
        (tmp_path / table).write_text("".join(f"{utt_id} {domain}\n" for utt_id, domain in sorted(domains.items())))
        examples = examples or [Example(utt_id, AudioSource(""), 1.0, NOTHING, NOTHING, NOTHING, NOTHING)
                                for utt_id in sorted(domains)]
        operation = Mix(Mix.Options(weights=weights, table=table))
        return operation.apply(examples, SimpleNamespace(path=tmp_path), np.random.default_rng(0))
    return mix


def epochs(examples, number: int, seed: int = 0) -> list[list[str]]:
    """The utterances of the first epochs."""
    plan = BatchPlan(examples, CONFIG, seed, 1)
    return [[examples[i].utt_id for batch in plan.epoch(epoch) for i in batch] for epoch in range(number)]


def domains_of(**sizes: int) -> dict[str, str]:
    return {f"{domain}-{i:04d}": domain for domain, size in sizes.items() for i in range(size)}


@pytest.mark.parametrize("sizes", [{"clean": 300, "noisy": 100}, {"clean": 37, "noisy": 301}, {"clean": 1, "noisy": 5}])
@pytest.mark.parametrize("weights", [{"clean": 1, "noisy": 2}, {"clean": 0.9, "noisy": 0.1}])
def test_domains_come_as_often_as_asked(mixed, sizes, weights):
    """Within 3 standard deviations of independent draws; in fact every epoch is within one utterance."""
    domains = domains_of(**sizes)
    examples, _ = mixed(domains, weights)
    heard = epochs(examples, 20)
    share = weights["noisy"] / sum(weights.values())
    for epoch in heard:
        assert abs(sum(domains[utt_id] == "noisy" for utt_id in epoch) - share * len(domains)) < 1
        assert abs(len(epoch) - len(domains)) < 2
    counts = Counter(domains[utt_id] for epoch in heard for utt_id in epoch)
    total = counts.total()
    assert abs(counts["noisy"] - share * total) < 3 * np.sqrt(total * share * (1 - share))


def test_nothing_is_heard_twice_below_one_time_and_all_are_about_equally_often_above(mixed):
    domains = domains_of(clean=300, noisy=100)  # asked for 133 and 267
    examples, report = mixed(domains, {"clean": 1, "noisy": 2})
    for epoch in epochs(examples, 10):
        counts = Counter(epoch)
        assert {counts[utt_id] for utt_id, domain in domains.items() if domain == "clean"} == {0, 1}
        assert {counts[utt_id] for utt_id, domain in domains.items() if domain == "noisy"} == {2, 3}
    assert {reason: len(ids) for reason, ids in report.items()} == {"clean, 0.444 times an epoch": 300,
                                                                    "noisy, 2.67 times an epoch": 100}


def test_every_epoch_draws_others_and_all_are_heard_in_time(mixed):
    domains = domains_of(clean=300, noisy=100)
    examples, _ = mixed(domains, {"clean": 1, "noisy": 2})
    heard = [set(epoch) for epoch in epochs(examples, 30)]
    assert heard[0] != heard[1] and set.union(*heard) == set(domains)
    assert epochs(examples, 3) == epochs(examples, 3) != epochs(examples, 3, seed=1)
    counts = np.array([sum(utt_id in epoch for epoch in heard) for utt_id in domains if utt_id.startswith("clean")])
    assert abs(counts.mean() - 30 * 4 / 9) < 0.1
    assert counts.std() == pytest.approx(np.sqrt(30 * 4 / 9 * 5 / 9), rel=0.15)  # binomial: epochs are independent


def test_ranks_and_a_resumed_run_see_the_same_draws(mixed):
    examples, _ = mixed(domains_of(clean=30, noisy=10), {"clean": 1, "noisy": 2})
    alone = list(BatchPlan(examples, CONFIG, 0, 40, accumulation=2))
    first, second = (list(BatchPlan(examples, CONFIG, 0, 20, rank, 2)) for rank in (0, 1))
    assert [batch for pair in zip(first, second, strict=True) for batch in pair] == alone


def test_proportions_as_they_are_change_nothing(mixed):
    domains = domains_of(clean=30, noisy=10)
    examples, _ = mixed(domains, {"clean": 3, "noisy": 1})
    assert [example.utt_id for example in examples] == sorted(domains) and {one.rate for one in examples} == {1.0}
    plain = [Example(utt_id, AudioSource(""), 1.0, NOTHING, NOTHING, NOTHING, NOTHING) for utt_id in sorted(domains)]
    assert epochs(examples, 4) == epochs(plain, 4)


def test_weight_0_leaves_a_domain_out_and_mixes_may_follow_one_another(mixed):
    domains = domains_of(clean=30, noisy=10)
    examples, report = mixed(domains, {"clean": 0, "noisy": 2})
    assert {one.utt_id for one in examples} == {utt_id for utt_id in domains if domains[utt_id] == "noisy"}
    assert "clean, 0 times an epoch" in report and len(epochs(examples, 1)[0]) == 40
    languages = {utt_id: "en" if int(utt_id[-1]) % 2 else "de" for utt_id in domains}
    again, _ = mixed(languages, {"en": 3, "de": 1}, examples=mixed(domains, {"clean": 1, "noisy": 2})[0],
                     table="utt2lang")
    counts = Counter(languages[utt_id] for epoch in epochs(again, 40) for utt_id in epoch)
    assert abs(counts["en"] / counts.total() - 0.75) < 3 * np.sqrt(0.75 * 0.25 / counts.total())


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 30), st.floats(0, 5, allow_subnormal=False)), min_size=1, max_size=5),
       st.integers(0, 99))
def test_no_epoch_is_empty_and_none_is_far_from_what_was_asked(tmp_path_factory, domains, seed):
    weights = {f"d{i}": weight for i, (_, weight) in enumerate(domains)}
    if sum(weights.values()) < 0.1:
        return
    folder = tmp_path_factory.mktemp("mix")
    names = [f"d{i}" for i, (size, _) in enumerate(domains) for _ in range(size)]
    (folder / "utt2domain").write_text("".join(f"u{i:03d} {name}\n" for i, name in enumerate(names)))
    examples = [Example(f"u{i:03d}", AudioSource(""), 1.0, NOTHING, NOTHING, NOTHING, NOTHING)
                for i in range(len(names))]
    mixed, _ = Mix(Mix.Options(weights=weights)).apply(examples, SimpleNamespace(path=folder), None)
    for epoch in epochs(mixed, 3, seed):
        assert 0 < len(epoch) and abs(len(epoch) - len(names)) < 1 + len(domains)


@pytest.mark.parametrize(("weights", "message"), [
    ({"clean": 1}, r"utt2domain: noisy-0000: domain 'noisy' has no weight; weights has clean"),
    ({"clean": 1, "noisy": 1, "nosy": 1}, "no utterance to train on has the domain 'nosy'.*it has clean, noisy")])
def test_domains_and_weights_have_to_fit(mixed, weights, message):
    with pytest.raises(DataError, match=message):
        mixed(domains_of(clean=2, noisy=2), weights)


def test_a_table_with_gaps_is_told(mixed, tmp_path):
    examples, _ = mixed(domains_of(clean=2), {"clean": 1})
    with pytest.raises(DataError, match="utt2domain: 1 utterances have no line, the first is clean-0000"):
        mixed({"clean-0001": "clean"}, {"clean": 1}, examples=examples)


@pytest.mark.parametrize("weights", [{}, {"clean": -1.0, "noisy": 1}, {"clean": 0}, {"clean": float("inf")}])
def test_weights_that_mean_nothing_are_refused(weights):
    with pytest.raises(ConfigError, match="mix: weights: .*name every domain's"):
        make_operations([{"name": "mix", "weights": weights}])


def test_the_record_of_a_run_tells_rates_apart(mixed, tmp_path):
    """A utt2domain that changed since makes other examples, also where the same ones are there as often."""
    examples = [Example(f"u{i}", AudioSource(""), 1.0, NOTHING, NOTHING, NOTHING, NOTHING) for i in range(4)]
    records = []
    for table in ("u0 a\nu1 a\nu2 a\nu3 b\n", "u0 b\nu1 a\nu2 a\nu3 a\n"):
        (tmp_path / "utt2domain").write_text(table)
        records.append(apply_operations([{"name": "mix", "weights": {"a": 1, "b": 1}}], examples,
                                        SimpleNamespace(path=Path(tmp_path)), 0)[1])
    assert records[0]["examples"] != records[1]["examples"] and json.dumps(records)
