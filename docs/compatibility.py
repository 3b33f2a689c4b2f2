"""What of the HTTP API a newer schema takes away from clients: compared as OpenAPI documents.

A request may not be narrowed, an answer may not lose what it promised. Each break is one line of text; a break that is
meant has that very line in ``docs/compatibility.md``. The older schema is that of the newest released version, which is
kept beside this module and which ``make docs`` leaves alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Schema = dict[str, Any]
NOTES = Path(__file__).with_name("compatibility.md")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")


def released(folder: Path = NOTES.parent) -> Schema:
    """The schema of the newest released version: the last of ``openapi-VERSION.json``. ValueError without any."""
    found = {tuple(map(int, path.stem.partition("-")[2].split("."))): path for path in folder.glob("openapi-*.json")}
    if not found:
        raise ValueError(f"{folder} has no openapi-VERSION.json of a released version to compare with")
    schema: Schema = json.loads(found[max(found)].read_text())
    return schema


def unnoted(old: Schema, new: Schema) -> list[str]:
    """The breaks from ``old`` to ``new`` of which the page of compatibility says nothing."""
    notes = NOTES.read_text()
    return [found for found in breaks(old, new) if found not in notes]


def breaks(old: Schema, new: Schema) -> list[str]:
    """What a client of ``old`` can no longer rely on, one line each."""
    return list(dict.fromkeys(_operations(old, new)))


def _operations(old: Schema, new: Schema) -> Iterator[str]:
    for path, item in old["paths"].items():
        for verb, was in item.items():
            at = f"{verb.upper()} {path}"
            now = new["paths"].get(path, {}).get(verb)
            if now is None:
                yield f"{at} is gone"
                continue
            yield from _parameters(at, was.get("parameters", []), now.get("parameters", []), old, new)
            yield from _bodies(at, was.get("requestBody"), now.get("requestBody"), old, new)
            yield from _answers(at, was["responses"], now["responses"], old, new)


def _parameters(at: str, was: list[Schema], now: list[Schema], old: Schema, new: Schema) -> Iterator[str]:
    olds, news = ({(one["in"], one["name"]): one for one in listed} for listed in (was, now))
    for key, one in olds.items():
        if key not in news:
            yield f"{at} no longer takes the parameter {one['name']}"
        else:
            where = f"{at} parameter {one['name']}"
            yield from _Walk(old, new, asked=True).schema(one["schema"], news[key]["schema"], where)
    for key, one in news.items():
        if one.get("required") and not olds.get(key, {}).get("required"):
            yield f"{at} needs the parameter {one['name']}"


def _bodies(at: str, was: Schema | None, now: Schema | None, old: Schema, new: Schema) -> Iterator[str]:
    if was is None or now is None:
        if was is None and now is not None and now.get("required"):
            yield f"{at} needs a body"
        return
    if now.get("required") and not was.get("required"):
        yield f"{at} needs a body"
    for kind, content in was["content"].items():
        if kind not in now["content"]:
            yield f"{at} no longer takes {kind}"
        else:
            yield from _Walk(old, new, asked=True).schema(content["schema"], now["content"][kind]["schema"], at)


def _answers(at: str, was: Schema, now: Schema, old: Schema, new: Schema) -> Iterator[str]:
    for status, answer in was.items():
        if status not in now:
            yield f"{at} no longer answers {status}"
            continue
        if status != "200":
            for code in _codes(answer) - _codes(now[status]):
                yield f"{at} no longer answers {status} {code}"
        for kind, content in answer.get("content", {}).items():
            other = now[status].get("content", {}).get(kind)
            if other is None:
                yield f"{at} no longer answers {status} as {kind}"
            elif "schema" in content:
                yield from _Walk(old, new, asked=False).schema(content["schema"], other.get("schema", {}), at)


def _codes(answer: Schema) -> set[str]:
    return {word for word in answer["description"].replace(",", " ").split() if word.isupper()}


class _Walk:
    """One comparison of two schemas; ``asked`` tells what clients send from what they are given."""

    def __init__(self, old: Schema, new: Schema, *, asked: bool) -> None:
        self.old, self.new, self.asked = old, new, asked
        self.seen: set[str] = set()

    def schema(self, was: Schema, now: Schema, at: str) -> Iterator[str]:
        """The breaks of one schema and of all within."""
        reference = was.get("$ref", "")
        if reference:
            if reference in self.seen:
                return
            self.seen.add(reference)
            at = f"{'request' if self.asked else 'answer'} {reference.rpartition('/')[2]}"
        was, now = _resolved(was, self.old), _resolved(now, self.new)
        olds, news = self._options(was, self.old), self._options(now, self.new)
        if "" not in olds and "" not in news:
            needed, given = (olds, news) if self.asked else (news, olds)
            for kind in needed:
                if kind not in given and not (kind == "integer" and "number" in given):
                    yield f"{at}: {kind} is no longer {'taken' if self.asked else 'the only kind'}"
        for kind, option in olds.items():
            if kind in news:
                yield from self._one(option, news[kind], at)

    def _options(self, schema: Schema, document: Schema) -> dict[str, Schema]:
        """The kinds of value that a schema allows, "" for any."""
        listed = schema.get("anyOf") or schema.get("oneOf") or [schema]
        found: dict[str, Schema] = {}
        for option in listed:
            name = option.get("$ref", "").rpartition("/")[2]
            resolved = _resolved(option, document)
            kind = name if name and len(listed) > 1 else str(resolved.get("type", ""))
            found[kind] = {"$ref": option["$ref"]} if name and len(listed) > 1 else resolved
        return found

    def _one(self, was: Schema, now: Schema, at: str) -> Iterator[str]:
        if "$ref" in was:
            yield from self.schema(was, now, at)
            return
        yield from self._fields(was, now, at)
        values = _values(was)
        for value in values - (_values(now) or values):
            yield f"{at}: the value {value!r} is gone"
        if self.asked:
            yield from _limits(was, now, at)
        for inner in ("items", "additionalProperties"):
            if isinstance(was.get(inner), dict) and isinstance(now.get(inner), dict):
                yield from self.schema(was[inner], now[inner], f"{at}[]")

    def _fields(self, was: Schema, now: Schema, at: str) -> Iterator[str]:
        olds, news = was.get("properties", {}), now.get("properties", {})
        needed, promised = set(now.get("required", [])), set(was.get("required", []))
        for name, field in olds.items():
            if name not in news:
                yield f"{at}.{name} is gone"
                continue
            if self.asked and name in needed - promised:
                yield f"{at}.{name} is required"
            if not self.asked and name in promised - needed:
                yield f"{at}.{name} may be missing"
            yield from self.schema(field, news[name], f"{at}.{name}")
        if self.asked:
            for name in needed - set(olds):
                yield f"{at}.{name} is required"


def _resolved(schema: Schema, document: Schema) -> Schema:
    while "$ref" in schema:
        found: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def _values(schema: Schema) -> set[Any]:
    return set(schema.get("enum", [])) | ({schema["const"]} if "const" in schema else set())


def _limits(was: Schema, now: Schema, at: str) -> Iterator[str]:
    for names, tighter in ((UPPER, lambda a, b: b < a), (LOWER, lambda a, b: b > a)):
        for name in names:
            if name in now and (name not in was or tighter(was[name], now[name])):
                yield f"{at}: {name} is {now[name]}"
    if now.get("pattern") not in (None, was.get("pattern")):
        yield f"{at}: the pattern is another"
    if _values(now) and not _values(was):
        yield f"{at}: only certain values are taken"
    if was.get("additionalProperties", True) is not False and now.get("additionalProperties") is False:
        yield f"{at}: other fields are refused"
