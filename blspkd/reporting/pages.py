"""Pages from `templates/`, by jinja2. Data is escaped: in HTML always, in Markdown by the filter `md`."""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from blspkd.reporting import tables
from blspkd.reporting.best import best


@cache
def environment() -> Environment:
    """The templates; what is not given to one is an error, never an empty place."""
    made = Environment(loader=PackageLoader("blspkd.reporting"), autoescape=select_autoescape(["html"]),
                       undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"md": tables.escape, "system": tables.system_label, "metric": tables.metric_label,
                     "duration": tables.duration, "value": tables.value_text, "interval": tables.interval_text}
    made.globals |= {"best": best}
    return made


def render(template: str, **values: object) -> str:
    """`template` of `templates/` with these values in it, without blank lines around it."""
    return environment().get_template(template).render(values).strip("\n")
