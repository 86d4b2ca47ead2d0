"""The figures of a directory, and that its pieces have the same."""

import pytest

from blspkd.errors import DataError
from blspkd.kaldi.pieces import FOLDER, Share
from blspkd.kaldi.stats import stats

IDS = ["ann-1", "ann-2", "bob-1", "bob-2", "bob-3", "cem-1"]


def test_stats(make_rich_dir, make_dir, tmp_path):
    figures = stats(make_rich_dir(utt2dur=[f"{utt_id} {index + 1}" for index, utt_id in enumerate(IDS)]))
    assert (figures.utterances, figures.speakers, figures.recordings) == (6, 3, 2)
    assert (figures.words, figures.distinct_words, figures.characters) == (24, 9, 114)
    assert (figures.total_duration, figures.min_duration, figures.median_duration,
            figures.max_duration) == (21, 1, 3.5, 6)
    assert figures.files["text.qa"] == 3 and figures.files["continuation"] == 5
    assert "hours" in str(figures) and "text.translate" in str(figures)


def test_stats_without_durations(make_dir):
    assert "run the verb durations" in str(stats(make_dir()))


def test_figures_count_utterances_where_each_has_several_lines(make_dir):
    assert stats(make_dir(word_times=["ann-1 0 1 a", "ann-1 1 2 b"])).files == {"word_times": 1}


@pytest.mark.parametrize("files", [{"utt2lang": "ann-1 en\nann-1 de\n"}, {"word_times": "ann-1 early late some\n"}])
def test_figures_of_tables_that_are_not_in_order_are_refused(make_dir, files):
    with pytest.raises(DataError, match="utt2lang:2|word_times:1"):
        stats(make_dir(**files))


@pytest.mark.parametrize("durations", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_pieces_have_the_same_figures_whoever_counts_them(make_rich_dir, size, durations):
    folder = make_rich_dir(utt2dur=[f"{utt_id} 0.{index + 1}" for index, utt_id in enumerate(IDS)][not durations:],
                           word_times=["ann-1 0 1 a", "ann-1 1 2 b", "cem-1 0 1 x"])
    whole = stats(folder)
    for job in range(1, 8):
        assert stats(folder, Share(job, 7, size)) is None
    assert stats(folder, Share(size=size)) == whole
    assert not (folder / FOLDER).exists()
