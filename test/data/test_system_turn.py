"""`system: none`: templates' own system messages are cut out, and nothing else is."""

import pytest

from blspkd.config import PromptConfig
from blspkd.data.prompts import Prompt, load_tokenizer

CHATML = ("{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\nYou are the house."
          "<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
          "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
HEADERS = ("{{ bos_token }}{% set own = messages[0]['role'] == 'system' %}<h>system</h>\n\nsix cats\n"
           "{% if own %}{{ messages[0]['content'] }}{% else %}the house{% endif %}<eot>"
           "{% for m in messages[(1 if own else 0):] %}<h>{{ m['role'] }}</h>\n\n{{ m['content'] }}<eot>{% endfor %}"
           "{% if add_generation_prompt %}<h>assistant</h>\n\n{% endif %}")
REFUSES = ("{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
           "<t>{{ m['role'] }} {{ m['content'] }}<e>{% endfor %}{% if add_generation_prompt %}<t>model {% endif %}")
INSIDE = ("{% set s = messages[0]['content'] + '\n' if messages[0]['role'] == 'system' else '' %}"
          "{% for m in messages if m['role'] != 'system' %}[INST] {{ s }}{{ m['content'] }} [/INST]{% endfor %}")
UNTIDY = ("{% for m in messages %}{% if loop.first and m['role'] != 'system' %}S: the house\n{% endif %}"
          "{{ {'system': 'S: ', 'user': 'U> ', 'assistant': 'A> '}[m['role']] }}{{ m['content'] }}"
          "{{ {'system': '\n', 'user': ';', 'assistant': '.'}[m['role']] }}{% endfor %}")


@pytest.fixture
def spelled(tiny_llm):
    def spell(template, system):
        tokenizer = load_tokenizer(tiny_llm)
        tokenizer.chat_template = template
        prompt = Prompt(tokenizer, PromptConfig("Say:", system=system))
        ids = prompt.split("a nurse")
        return tokenizer.decode([*ids.prefix, *ids.input, *ids.suffix])
    return spell


@pytest.mark.parametrize("template, begins", [(CHATML, "<|im_start|>user\nSay:"), (HEADERS, "<h>user</h>\n\nSay:"),
                                              (REFUSES, "<t>user Say:"), (INSIDE, "[INST] Say:")],
                         ids=["chatml", "headers", "refuses", "inside"])
def test_a_turn_of_the_template_s_own_goes_and_nothing_else(spelled, template, begins):
    plain, none = spelled(template, ""), spelled(template, "none")
    assert none.removeprefix("<s>").startswith(begins) and plain.endswith(none.removeprefix("<s>"))
    assert "house" not in none and ("house" in plain) == (template in (CHATML, HEADERS))


def test_a_system_message_of_one_s_own_stays(spelled):
    assert "six red cars" in spelled(CHATML, "six red cars") and "house" not in spelled(CHATML, "six red cars")


def test_bounds_that_cannot_be_told_are_refused(spelled):
    with pytest.raises(Exception, match="system: none: where the system message"):
        spelled(UNTIDY, "none")
