"""KV caches are found and given whatever a release of transformers, or a model, calls them."""

import pytest
import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from blspkd.models.kv_cache import cache_argument, find_cache


def test_a_cache_is_found_by_what_it_is():
    cache = DynamicCache()
    assert find_cache([None, torch.zeros(1), cache]) is cache
    assert find_cache([torch.zeros(1), None, "past_key_values"]) is None


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_a_cache_is_given_by_the_name_that_the_model_takes(name):
    class Newer(nn.Module):
        def forward(self, input_ids=None, cache=None):
            """As from 5.24 on."""

    class Older(nn.Module):
        def forward(self, input_ids=None, past_key_values=None):
            """As until 5.23."""

    model = {"cache": Newer, "past_key_values": Older}[name]()
    assert cache_argument(model, None) == {name: None}


@torch.no_grad()
def test_a_llm_of_this_release_goes_on_from_the_cache_that_it_is_given():
    config = LlamaConfig(vocab_size=20, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
                         num_attention_heads=2, initializer_range=0.5)
    llm = LlamaForCausalLM(config).eval()
    ids = torch.arange(8)[None]
    cache = find_cache(llm(input_ids=ids[:, :5], use_cache=True).values())
    assert cache.get_seq_length() == 5
    rest = llm(input_ids=ids[:, 5:], **cache_argument(llm, cache)).logits
    torch.testing.assert_close(rest, llm(input_ids=ids).logits[:, 5:])
