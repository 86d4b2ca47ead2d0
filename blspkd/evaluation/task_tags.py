"""Tags of the tasks of stage 4 (data/tags.py): checked against those that the model's training had."""

from collections.abc import Mapping
from dataclasses import replace

from blspkd.data.tags import check_tags
from blspkd.evaluation_config import DecodeConfig


def with_tags(config: DecodeConfig, known: Mapping[str, list[str]]) -> DecodeConfig:
    """`config` whose tasks have all their tags, those that `config.tags` gives to every task too, in training's order.

    known: {key: values} of the training. Raises ConfigError for a tag that it did not have.
    """
    tasks = {}
    for name, task in config.tasks.items():
        tags = config.tags | task.tags
        check_tags(tags, known, f"tasks: {name}")
        tasks[name] = replace(task, tags={key: tags[key] for key in known if key in tags})
    return replace(config, tasks=tasks)
