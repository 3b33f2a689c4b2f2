"""The tables in the docs are those of the code."""

from __future__ import annotations

import inspect

from deployments.ingress.metrics import METRICS
from tests.serving import CHECKOUT
from tollama.errors import http_table
from tollama.settings import ALIASES, Settings, env_name

DOCS = CHECKOUT / "docs"


def errors() -> str:
    rows = [
        f"| {error.status} | `{code}` | {' '.join(inspect.cleandoc(error.__doc__ or '').splitlines()[0].split())} |"
        for code, error in sorted(http_table().items(), key=lambda item: (item[1].status, item[0]))
    ]
    return "\n".join(["| status | code | when |", "|---|---|---|", *rows])


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        variables = " ".join(f"`{one}`" for one in (env_name(name), ALIASES.get(name)) if one)
        rows.append(f"| `{name}` | {variables} | `{field.default}` | {field.description} |")
    return "\n".join(["| key | environment | default | |", "|---|---|---|---|", *rows])


def metrics() -> str:
    rows = [
        f"| `{one.name}` | {one.kind} | {' '.join(f'`{label}`' for label in one.labels)} | {one.text} |"
        for one in METRICS.values()
    ]
    return "\n".join(["| metric | type | labels | |", "|---|---|---|---|", *rows])


def test_every_error_code_is_documented() -> None:
    assert errors() in (DOCS / "errors.md").read_text(), errors()


def test_every_setting_is_documented() -> None:
    assert settings() in (DOCS / "settings.md").read_text(), settings()


def test_every_metric_is_documented() -> None:
    assert metrics() in (DOCS / "metrics.md").read_text(), metrics()
