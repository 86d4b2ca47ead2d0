"""The matrix of scores by year of training and year of test, as Markdown."""

from collections.abc import Sequence

from blspkd.evaluation.by_year import YearScores, same_and_other_years
from blspkd.reporting.tables import markdown_table, metric_label


def markdown(rows: Sequence[YearScores], task: str, metric: str) -> str:
    """One row per model, one column per year of the test utterances; bold: a year the model was trained on."""
    years = sorted({year for row in rows for year in row.scores})
    sizes = {year: max(row.scores[year].n for row in rows if year in row.scores) for year in years}
    heads = [f"{task}, {metric_label(metric)}", "trained on", *(f"{year} (n={sizes[year]})" for year in years)]
    lines = []
    for row in rows:
        cells = []
        for year in years:
            score = row.scores.get(year)
            value = f"{score.value:.1f} ({score.ci95[0]:.1f}-{score.ci95[1]:.1f})" if score else "-"
            cells.append(f"**{value}**" if score and year in row.trained_on else value)
        lines.append([row.name, " ".join(map(str, row.trained_on)) or "unknown", *cells])
    table, means = markdown_table(heads, lines, num_texts=2), same_and_other_years(rows)
    if means:
        table += f"\n\nMean over cells: {means[0]:.1f} in years of the own training (bold), {means[1]:.1f} in others."
    return table
