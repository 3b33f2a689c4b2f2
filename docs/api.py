"""The API reference as Markdown, from the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]
HEAD = """# HTTP API

The server describes itself at `/openapi.json` and `/docs`; this page says the same. Bodies and answers are JSON,
streams are lines of JSON (`application/x-ndjson`). Unknown fields of a request are refused, except by Ollama's routes.
Every error has the shape of `ErrorBody`; [errors.md](errors.md) lists the codes, [compatibility.md](compatibility.md)
what stays as it is. `GET` of `/`, `/api/version` and `/api/tags` answers `HEAD`, too.
"""


def page(schema: Schema) -> str:
    """The whole page: routes by their tag, then the types."""
    groups: dict[str, list[str]] = {}
    for path, item in schema["paths"].items():
        for verb, operation in item.items():
            groups.setdefault(operation["tags"][0], []).append(_route(path, verb, operation))
    routes = [f"## Routes: {tag}\n\n" + "\n".join(listed) for tag, listed in groups.items()]
    types = [_type(name, one) for name, one in sorted(schema["components"]["schemas"].items())]
    return "\n".join([HEAD, *routes, "## Types\n", *types])


def _route(path: str, verb: str, operation: Schema) -> str:
    lines = [f"### {verb.upper()} `{path}`", "", operation.get("description") or operation.get("summary", "")]
    if body := operation.get("requestBody"):
        asked = _kind(next(iter(body["content"].values()))["schema"])
        lines += ["", f"Body: {asked}{'' if body.get('required') else ', may be left out'}."]
    answers = dict(operation["responses"])
    for kind, content in answers.pop("200")["content"].items():
        each = "Each line of a streamed answer" if kind.endswith("ndjson") else "Answer"
        lines += ["", f"{each}: {_kind(content['schema']) if 'json' in kind else 'text'}."]
    failures = [f"{status} {answer['description']}" for status, answer in answers.items()]
    lines += ["", f"Errors: {'; '.join(failures)}.", ""]
    return "\n".join(lines)


def _type(name: str, schema: Schema) -> str:
    lines = [f"### {name}", "", schema.get("description", "").replace("``", "`"), ""]
    if fields := schema.get("properties"):
        required = set(schema.get("required", []))
        lines += ["| field | type | default | |", "|---|---|---|---|"]
        lines += [_field(field, one, field in required) for field, one in fields.items()]
        lines.append("")
    return "\n".join(lines)


def _field(name: str, schema: Schema, required: bool) -> str:
    default = "required" if required and "default" not in schema else _text(schema.get("default"))
    words = [*_limits(schema), schema.get("description", "")]
    return f"| `{name}` | {_kind(schema)} | {default} | {' '.join(word for word in words if word)} |"


def _kind(schema: Schema) -> str:
    """A schema in words: ``number or null``, a type of ours as a link."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if options := schema.get("anyOf"):
        return " or ".join(dict.fromkeys(_kind(option) for option in options))
    if values := schema.get("enum"):
        return " or ".join(f"`{value}`" for value in values)
    if "const" in schema:
        return _text(schema["const"])
    kind = str(schema.get("type", "any"))
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_kind(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map of {_kind(schema['additionalProperties'])}"
    return f"{kind} ({schema['format']})" if "format" in schema else kind


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"`{str(value).lower()}`" if isinstance(value, bool) else f"`{value}`"


def _limits(schema: Schema) -> Iterator[str]:
    marks = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    marks |= {"minLength": "length ≥", "maxLength": "length ≤", "minItems": "items ≥", "maxItems": "items ≤"}
    for option in schema.get("anyOf", [schema]):
        yield from (f"{mark} {option[name]}." for name, mark in marks.items() if name in option)
