"""The report's section on what alignment predicts: its measures against task scores, a point for every model."""

from collections.abc import Sequence
from dataclasses import dataclass

from blspkd.evaluation.results import Row, whole_tasks
from blspkd.evaluation.scorers import SCORERS
from blspkd.reporting import figures
from blspkd.reporting.correlation import FEW, Pairs, rho_text, spearman
from blspkd.reporting.report_data import Experiment, all_rows
from blspkd.reporting.tables import metric_label

MEASURES = ("input_kl", "response_kl", "first_kl", "top1")  # that are compared with task scores
Trail = tuple[str, str, Pairs]  # system, set, (measure, score) of its snapshots by step and of the finished model


@dataclass(frozen=True)
class Cloud:
    """One alignment measure against one task's score over all experiments that have both."""

    measure: str
    task: str  # with its metric
    trails: list[Trail]

    @property
    def sets(self) -> list[str]:
        return list(dict.fromkeys(set_name for _, set_name, _ in self.trails))

    def finished(self, set_name: str) -> Pairs:
        """The finished models on one set. Sets differ for reasons of their own."""
        return [pairs[-1] for _, name, pairs in self.trails if name == set_name]

    def snapshots(self, set_name: str) -> Pairs:
        return [pair for _, name, pairs in self.trails if name == set_name for pair in pairs[:-1]]

    def points(self, set_name: str) -> Pairs:
        """All that are drawn."""
        return self.finished(set_name) + self.snapshots(set_name)

    def rho(self, set_name: str) -> float | None:
        """Spearman's, of all points; None where there are fewer than three, or all are the same."""
        return spearman(*zip(*self.points(set_name), strict=True))


def clouds(experiments: Sequence[Experiment]) -> list[Cloud]:
    """By task, then measure; every task with its first metric."""
    first: dict[str, str] = {}
    for row in whole_tasks(all_rows(experiments)):
        if row.metric in SCORERS:
            first.setdefault(row.task, row.metric)
    found = []
    for task, metric in first.items():
        for measure in MEASURES:
            trails = []
            for experiment in experiments:
                finished = _points(experiment, experiment.rows, measure, task, metric)
                before = [_points(experiment, rows, measure, task, metric)
                          for _, rows in sorted(experiment.snapshots.items())]
                trails += [(experiment.label, name, [*(points[name] for points in before if name in points), end])
                           for name, end in finished.items()]
            if trails:
                found.append(Cloud(measure, f"{task} {SCORERS[metric].label}", trails))
    return found


def _points(experiment: Experiment, rows: Sequence[Row], measure: str, task: str,
            metric: str) -> dict[str, tuple[float, float]]:
    """Set -> (measure, score) of one model."""
    values = {(row.task, row.metric, row.set): row.value for row in rows if row.system == experiment.label}
    return {name: (values["alignment", measure, name], score) for (own, found, name), score in values.items()
            if (own, found) == (task, metric) and ("alignment", measure, name) in values}


def colours_of(experiments: Sequence[Experiment]) -> dict[str, str]:
    """A colour per trained system, the same in every picture of a page."""
    return figures.palette([experiment.label for experiment in experiments if experiment.curves or experiment.summaries
                            or any(row.task == "alignment" for row in experiment.rows)])


def draw_clouds(experiments: Sequence[Experiment]) -> dict | None:
    """What the section shows; `picture` None: no points have an order. None where no experiment has both measures."""
    found = clouds(experiments)
    if not found:
        return None
    sizes = [len(cloud.points(name)) for cloud in found for name in cloud.sets]
    ordered = {(cloud.measure, cloud.task): cloud for cloud in found
               if any(cloud.rho(name) is not None for name in cloud.sets)}
    if not ordered:
        return {"picture": None, "most": max(sizes)}
    picture = figures.scatter({key: cloud.trails for key, cloud in ordered.items()},
                              {key: _title(cloud) for key, cloud in ordered.items()}, colours_of(experiments))
    by_line: dict[tuple[str, str], dict[str, str]] = {}  # (task, set) -> measure -> rho
    for cloud in found:
        for name in cloud.sets:
            by_line.setdefault((cloud.task, name), {})[cloud.measure] = rho_text(cloud.finished(name),
                                                                               cloud.snapshots(name))
    measures = list(dict.fromkeys(cloud.measure for cloud in found))
    return {"picture": figures.data_uri(picture), "fewest": min(sizes), "few": min(sizes) < FEW,
            "snapshots": any(cloud.snapshots(name) for cloud in found for name in cloud.sets),
            "heads": ["task", "set", *(f"rho of {metric_label(measure)}" for measure in measures)],
            "lines": [[*line, *(rhos.get(measure, "-") for measure in measures)] for line, rhos in by_line.items()]}


def _title(cloud: Cloud) -> str:
    """rho of all points that are drawn, where there are few sets."""
    texts = [f"rho {name} {rho_text(cloud.points(name))}" for name in cloud.sets if cloud.rho(name) is not None]
    return "\n".join(texts) if len(texts) < 3 else ""
