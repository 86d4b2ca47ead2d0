"""Factual questions with the answer that a right reply has to name."""

from lexicon import COUNTRIES, OPPOSITES

WELL_KNOWN = """
France Germany Italy Ireland Greece Austria Poland Hungary Sweden Denmark Belgium Russia Romania Bulgaria Serbia
Iceland Scotland Japan China India Thailand Vietnam Indonesia Iran Iraq Nepal Pakistan Malaysia Egypt Kenya Nigeria
Morocco Ghana Senegal Canada Mexico Cuba Jamaica Argentina Brazil Chile Peru Colombia""".split()


def questions() -> list[tuple[str, str]]:
    """[(question, answer)], by kind: of capitals, countries of capitals, and opposites."""
    capitals = [(f"What is the capital of {country}?", COUNTRIES[country][0]) for country in WELL_KNOWN]
    countries = [(f"Which country has the capital {COUNTRIES[country][0]}?", country) for country in WELL_KNOWN]
    opposites = [(f"What is the opposite of {word}?", other) for word, other in OPPOSITES.items()]
    return capitals + countries + opposites
