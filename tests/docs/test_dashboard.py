"""The Grafana dashboard asks for metrics and labels that there are, and for all of them."""

from __future__ import annotations

import json
import re
from typing import Any

from deployments.ingress.metrics import METRICS
from tests.serving import CHECKOUT

DASHBOARD: dict[str, Any] = json.loads((CHECKOUT / "deploy/grafana/tollama.json").read_text())
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
SELECTED = re.compile(r"(tollama_\w+)(?:\{([^}]*)\})?")


def metric(name: str) -> str:
    """The metric that a series of this name belongs to."""
    return name if name in METRICS else re.sub(r"_(bucket|sum|count)$", "", name)


def test_it_asks_for_every_metric_and_for_no_other() -> None:
    asked = {metric(name) for expression in EXPRESSIONS for name, _ in SELECTED.findall(expression)}
    assert asked == set(METRICS)


def test_a_series_is_read_as_its_kind_allows() -> None:
    for expression in EXPRESSIONS:
        for name, _ in SELECTED.findall(expression):
            kind = METRICS[metric(name)].kind
            assert (name == metric(name)) is (kind != "histogram"), expression
            assert bool(re.search(rf"(rate|increase)\({name}\b", expression)) is (kind != "gauge"), expression


def test_labels_are_the_metrics_own() -> None:
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            labels = {label for name, _ in SELECTED.findall(target["expr"]) for label in METRICS[metric(name)].labels}
            used = {part.strip() for by in re.findall(r"by \(([^)]*)\)", target["expr"]) for part in by.split(",")}
            used |= set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            used |= {
                label for _, inside in SELECTED.findall(target["expr"]) for label in re.findall(r"(\w+)[=!]", inside)
            }
            assert used <= labels | {"le"}, target


def test_its_variables_are_of_metrics_too() -> None:
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__rate_interval", "__all"}
    assert used == names
    (query,) = re.findall(r"label_values\((\w+), (\w+)\)", json.dumps(DASHBOARD))
    assert query[1] in METRICS[query[0]].labels
