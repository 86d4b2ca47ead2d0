"""What was read in an earlier turn is not read again, and nothing else changes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from blspkd.models.past import Past


@pytest.fixture(scope="module")
def llm():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                                        num_attention_heads=2, num_key_value_heads=2)).eval()


def read(llm, ids):
    from blspkd.models.kv_cache import find_cache
    return find_cache(llm(input_ids=torch.tensor([ids]), use_cache=True).values())


def test_what_two_prompts_have_in_common_is_kept(llm):
    past, speech = Past(), torch.randn(2, 16)
    assert past.resume(llm, [[1, 2], speech, [3]]) == (None, 0)
    past.keep(llm, read(llm, [1, 2, 3, 4, 5, 6, 7]), [[1, 2], speech, [3]], [6, 7, 8])
    cache, common = past.resume(llm, [[1, 2], speech.clone(), [3], [6, 9]])
    assert common == cache.get_seq_length() == 6


def test_other_speech_of_the_same_length_is_not_common(llm):
    past, speech = Past(), torch.randn(2, 16)
    past.keep(llm, read(llm, [1, 2, 3, 4, 5]), [[1, 2], speech, [3]], [6])
    _, common = past.resume(llm, [[1, 2], torch.stack([speech[0], -speech[1]]), [3]])
    assert common == 3


def test_the_last_position_is_always_left_to_be_read(llm):
    past = Past()
    past.keep(llm, read(llm, [1, 2, 3]), [[1, 2, 3]], [4])
    cache, common = past.resume(llm, [[1, 2, 3]])
    assert common == cache.get_seq_length() == 2


def test_a_generation_that_failed_leaves_nothing_behind(llm):
    past = Past()
    past.keep(llm, read(llm, [1, 2, 3]), [[1, 2, 3]], [4])
    past.resume(llm, [[1, 2, 3, 4]])
    assert past.resume(llm, [[1, 2, 3, 4]]) == (None, 0)


def test_another_kind_of_state_is_not_kept():
    past = Past()
    past.keep(object, None, [[1]], [2])
    assert past.resume(object, [[1, 2]]) == (None, 0)


def test_what_another_model_has_read_is_of_no_use(llm):
    past = Past()
    past.keep(llm, read(llm, [1, 2, 3]), [[1, 2, 3]], [4])
    assert past.resume(LlamaForCausalLM(llm.config), [[1, 2, 3, 4]]) == (None, 0)
