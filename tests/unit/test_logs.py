"""What goes into a log line, and how long logs stay."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from ray._common.formatters import JSONFormatter

from deployments import logs
from deployments.logs import REQUEST, Lines
from tollama.logs import DAY_S, retain, rotation

NOW = 1_800_000_000.0


def written(message: str, *args: object, error: Exception | None = None) -> dict[str, str]:
    """The JSON line that Serve's own formatter makes of a record that passed the filter."""
    record = logging.LogRecord("ray.serve", logging.ERROR, __file__, 1, message, args, None)
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    assert Lines().filter(record)
    return dict(json.loads(JSONFormatter().format(record)))


def test_a_line_has_the_id_of_its_request() -> None:
    assert "request_id" not in written("idle")
    token = REQUEST.set("r-1")
    try:
        assert written("busy")["request_id"] == "r-1"
    finally:
        REQUEST.reset(token)


def test_secrets_are_masked_in_messages_arguments_and_tracebacks() -> None:
    assert written("pull with token=%s", "Zq9word")["message"] == "pull with token=[redacted]"
    try:
        raise ValueError("https://user:Zq9word@hub.example failed")
    except ValueError as error:
        line = written("it failed: %s", error, error=error)
    assert "ValueError: https://[redacted]@hub.example failed" in line["exc_text"]
    assert "Traceback" in line["exc_text"]
    assert "Zq9word" not in json.dumps(line)


def test_a_line_that_does_not_fit_its_arguments_is_no_fault_of_the_filter() -> None:
    record = logging.LogRecord("ray.serve", logging.INFO, __file__, 1, "%d things", ("many",), None)
    assert Lines().filter(record)


def test_the_filter_stands_on_each_handler_once() -> None:
    logger, handler = logging.getLogger(logs.SERVE), logging.NullHandler()
    logger.addHandler(handler)
    try:
        logs.install()
        logs.install()
        assert [type(one) for one in handler.filters] == [Lines]
    finally:
        for one in logger.handlers:
            for two in [found for found in one.filters if isinstance(found, Lines)]:
                one.removeFilter(two)
        logger.removeHandler(handler)


def aged(folder: Path, name: str, days: float, kilobytes: int = 1) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(kilobytes * 1000))
    os.utime(path, (NOW - days * DAY_S,) * 2)
    return path


def test_old_logs_go_and_the_oldest_of_too_many(tmp_path: Path) -> None:
    old, third, second, first = (aged(tmp_path, f"a/{days}.log", days, 400) for days in (20, 3, 2, 1))
    assert retain(tmp_path, 100, 14, lambda: NOW) == [old]
    assert retain(tmp_path, 0.9, 14, lambda: NOW) == [third]
    assert sorted(tmp_path.rglob("*.log")) == sorted([second, first])
    assert retain(tmp_path / "nothing", 1, 1) == []


def test_what_a_process_writes_to_stays(tmp_path: Path) -> None:
    path = aged(tmp_path, "open.log", 100)
    with path.open("ab"):
        assert retain(tmp_path, 100, 14, lambda: NOW) == []
    assert retain(tmp_path, 100, 14, lambda: NOW) == [path]


def test_files_are_rotated_well_below_the_whole() -> None:
    assert rotation(500) == 10_000_000
    assert rotation(0.1) == 100_000
