"""What every model kind on the server says that it can do, asked of it; and what it says that it cannot, refused."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.contract.checks import locs
from tests.families.kinds import Body, Kind, numbers, waves
from tests.serving import Server
from tollama.capabilities import Option
from tollama.contract import MAX_HORIZON
from tollama.registry import find

STEPS = 60
MOE = "moirai-moe-1.0-r-small"
BY_DESIGN = {"delay_s", "fail"}
"""Options of the mock that wait or fail, so what they allow is checked without a forecast."""
STRICT = {"parameters": {"covariates_mode": "strict"}}


def series(steps: int = STEPS, **more: Any) -> Body:
    return {"id": "a", "target": waves(steps, 24), "start": "2020-01-01", "freq": "h", **more}


def quick(kind: Kind) -> dict[str, Any]:
    """Without a season, where fitting one to thousands of steps takes seconds."""
    return {"season_length": 1} if kind.name.startswith("auto-") else {}


def test_the_longest_horizon_of_the_longest_history(kind: Kind) -> None:
    can = kind.can
    found = kind.answer(series(can.max_context + 7), horizon=can.max_horizon, options=quick(kind))
    (forecast,) = found["forecasts"]
    assert numbers(forecast).shape == (4, can.max_horizon)
    assert (found["usage"]["horizon"], found["usage"]["context_length"]) == (can.max_horizon, can.max_context)
    told = "\n".join(found["warnings"])
    assert f"its newest {can.max_context} of {can.max_context + 7} steps" in told
    assert ("beyond are rolled out" in told) == (can.native_horizon is not None)
    assert forecast["point"] == can.point


def test_one_step_more_than_the_longest_horizon_is_refused(kind: Kind) -> None:
    limit = kind.can.max_horizon
    code = "INVALID_REQUEST" if limit == MAX_HORIZON else "UNSUPPORTED_BY_MODEL"
    assert str(limit) in kind.refuse(series(), horizon=limit + 1, code=code)["error"]


def test_what_is_before_the_context_is_not_read(kind: Kind) -> None:
    can = kind.can
    long = series(can.max_context + 7)
    newest = {**long, "target": long["target"][7:], "start": "2020-01-01T07:00"}
    if can.covariates.future_numeric:
        past, ahead = column(can.max_context + 7, "numeric"), {"future_covariates": {"x": column(4, "numeric")}}
        long |= {"past_covariates": {"x": past}} | ahead
        newest |= {"past_covariates": {"x": past[7:]}} | ahead
    cut, exact = kind.answer(long, options=quick(kind)), kind.answer(newest, options=quick(kind))
    assert cut["forecasts"][0]["start_timestamp"] == exact["forecasts"][0]["start_timestamp"]
    if can.quantiles.method == "conformal":  # from errors in all of the history
        for found in (cut, exact):
            found["forecasts"][0]["quantiles"] = {}
    np.testing.assert_allclose(numbers(cut["forecasts"][0]), numbers(exact["forecasts"][0]), rtol=1e-5)
    assert not any("was cut" in warning for warning in exact["warnings"])


def test_a_context_length_is_taken_up_to_the_limit(kind: Kind) -> None:
    limit = kind.can.max_context
    if "context_length" not in kind.can.options:
        refused = kind.refuse(series(), options={"context_length": limit})
        assert locs(refused) == {("options", "context_length")}
        return
    assert str(limit) in kind.refuse(series(), options={"context_length": limit + 1})["error"]
    usual, limited = (kind.answer(series(), options=options) for options in ({}, {"context_length": limit}))
    assert usual["forecasts"] == limited["forecasts"]
    short = kind.answer(series(), options={"context_length": 30})
    sent = kind.answer({**series(30), "target": series()["target"][30:], "start": "2020-01-02T06:00"})
    assert short["usage"]["context_length"] == sent["usage"]["context_length"] == 30
    assert short["forecasts"] == sent["forecasts"]
    assert short["warnings"] == sent["warnings"]


def test_quantiles_within_what_the_model_gives(kind: Kind) -> None:
    native = kind.can.quantiles.native
    if not native:
        levels = [1e-300, 0.001, 0.5, 0.999, 1 - 2**-53]
        found = kind.answer(series(), quantiles=levels)
        assert [float(key) for key in found["forecasts"][0]["quantiles"]] == levels
        numbers(found["forecasts"][0])
        assert not any("extrapolated" in warning for warning in found["warnings"])
        return
    low, high = native[0], native[-1]
    below, between, above = low / 2, (low + native[1]) / 2, (1 + high) / 2
    inside = kind.answer(series(), quantiles=[low, between, native[1], high])
    assert not any("extrapolated" in warning for warning in inside["warnings"])
    for levels in ([below, high], [low, above]):
        assert f"{low} to {high}" in kind.refuse(series(), quantiles=levels)["error"]
    all_five = [below, low, between, native[1], high, above]
    outside = kind.answer(series(), quantiles=all_five, options={"extrapolate_quantiles": True})
    assert any("extrapolated" in warning for warning in outside["warnings"])
    values = numbers(outside["forecasts"][0])
    np.testing.assert_array_equal(np.delete(values, [1, 6], axis=0), numbers(inside["forecasts"][0]))
    assert (values[1] < values[2]).any()
    assert (values[6] > values[5]).any()


def test_the_point_is_what_it_says(kind: Kind) -> None:
    (forecast,) = kind.answer(series(), quantiles=[0.5])["forecasts"]
    assert forecast["point"] == kind.can.point
    if kind.can.point == "median":
        assert forecast["mean"] == forecast["quantiles"]["0.5"]
    (bare,) = kind.answer(series(), quantiles=[])["forecasts"]
    assert bare["quantiles"] == {}
    np.testing.assert_allclose(bare["mean"], forecast["mean"], rtol=1e-5)


def test_the_same_request_gives_the_same_answer_and_a_seed_another_sample(kind: Kind) -> None:
    first, again, other = (kind.answer(series(), options=options)["forecasts"] for options in ({}, {}, {"seed": 1}))
    assert first == again
    assert (first == other) == kind.can.deterministic


def bounds(option: Option) -> list[Any]:
    """What an option is to take: its default, the ends of its range, its choices."""
    ends = [end for end in (option.minimum, option.maximum) if end is not None]
    found = [option.default, *(option.choices or ()), *(int(end) if option.type == "int" else end for end in ends)]
    return [*found, True, False] if option.type == "bool" else found


def beyond(option: Option) -> list[Any]:
    """What it is to refuse: values past the ends, no choice, of another type."""
    found: list[Any] = [] if option.minimum is None else [int(option.minimum) - 1]
    found += [] if option.maximum is None else [int(option.maximum) + 1]
    return [*found, [1], 1 if option.type == "bool" else "no such choice"]


def test_every_option_takes_its_default_and_its_bounds(kind: Kind) -> None:
    for name, option in kind.can.options.items():
        for value in bounds(option):
            path = "/v1/validate" if name in BY_DESIGN else "/v1/forecast"
            found = kind.answer(series(), path=path, horizon=2, options={name: value})
            if name not in BY_DESIGN:
                assert numbers(found["forecasts"][0]).shape == (4, 2), (name, value)
    everything = {name: option.default for name, option in kind.can.options.items()}
    explicit = kind.server.post("/v1/forecast", {"model": kind.name, "horizon": 2, "series": [series()]})
    assert kind.answer(series(), horizon=2, options=everything)["forecasts"] == explicit.json()["forecasts"]


def test_no_option_takes_what_is_beyond(kind: Kind) -> None:
    wrong = {name: beyond(option) for name, option in kind.can.options.items()}
    for turn in range(max(map(len, wrong.values()))):
        options = {name: values[min(turn, len(values) - 1)] for name, values in wrong.items()}
        refused = kind.refuse(series(), path="/v1/validate", options={**options, "colour": 1})
        assert locs(refused) == {("options", name) for name in (*options, "colour")}
        assert all(name in refused["hint"] for name in wrong)
    assert locs(kind.refuse(series(), options={"colour": 1})) == {("options", "colour")}


def column(steps: int, kind: str, late: bool = False) -> list[Any]:
    """A covariate of ``steps``, of a cycle that the target does not have; ``late``: another one."""
    at = (np.arange(steps) // (5 if late else 3)) % 4
    return [f"c{value}" for value in at] if kind == "categorical" else (10 + 3.0 * at**2).tolist()


def covariates(kind: str, horizon: int, late: bool = False) -> Body:
    """The fields of a series with one covariate of this kind."""
    if kind == "static":
        return {"static_covariates": {"x": "south" if late else "north", "size": 9.0 if late else 2.0}}
    when, _, of = kind.partition("_")
    past = {"past_covariates": {"x": column(STEPS, of, late and when == "past")}}
    return past | ({"future_covariates": {"x": column(horizon, of, late)}} if when == "future" else {})


COVARIATES = ("past_numeric", "past_categorical", "future_numeric", "future_categorical", "static")


def test_covariates_count_where_they_are_taken_and_are_refused_or_dropped_where_not(kind: Kind) -> None:
    """One series of each kind, its name the same each time: what is sampled depends on it."""
    taken = [name for name in COVARIATES if getattr(kind.can.covariates, name)]
    refused = [name for name in COVARIATES if name not in taken]
    bare = {name: series(id=name) for name in COVARIATES}
    first = {name: {**bare[name], **covariates(name, 4)} for name in COVARIATES}
    second = {name: {**bare[name], **covariates(name, 4, late=True)} for name in COVARIATES}
    plain, given, changed = (kind.answer(*sent.values()) for sent in (bare, first, second))
    found = [
        {forecast["id"]: numbers(forecast) for forecast in answer["forecasts"]} for answer in (plain, given, changed)
    ]
    for name in taken:
        for one, other in ((0, 1), (1, 2)):
            assert np.abs(found[one][name] - found[other][name]).max() > 1e-6, name
    for name in refused:
        np.testing.assert_allclose(found[1][name], found[0][name], rtol=1e-5, err_msg=name)
        assert any(f"'{name}'" in warning and "dropped" in warning for warning in given["warnings"]), name
        assert name.replace("_", " ") in kind.refuse(first[name], series(), **STRICT)["error"]
    dropped = {name for name in COVARIATES if any(f"'{name}': covariates" in w for w in given["warnings"])}
    assert dropped == set(refused)
    if taken:
        strict = kind.answer(*(first[name] for name in taken), **STRICT)
        for forecast in strict["forecasts"]:
            np.testing.assert_allclose(numbers(forecast), found[1][forecast["id"]], rtol=1e-5)


def test_what_only_the_model_can_see_is_still_the_requests_fault(server: Server, pulled: None) -> None:
    """FlowState reads less of the history the longer the horizon; covariates cost Moirai memory with each sample."""
    flowstate, moe = (Kind(name, server, find(name).capabilities) for name in ("granite-flowstate-r1", MOE))
    buried = {**series(), "id": "b", "target": [*waves(30), *[None] * 30]}
    refused = flowstate.refuse(series(), buried, horizon=2048, code="INVALID_SERIES")
    assert "'b' holds no value in its last 24 steps" in refused["error"]
    assert [one["id"] for one in refused["detail"]] == ["b"]
    found = flowstate.answer(series(), buried, horizon=2048, response_options={"partial": True})
    assert numbers(found["forecasts"][0]).shape == (4, 2048)
    assert found["forecasts"][1]["error"]["code"] == "INVALID_SERIES"
    many = series(past_covariates={str(n): column(STEPS, "numeric") for n in range(150)})
    assert "fewer covariates" in moe.refuse(many, options={"num_samples": 100})["hint"]
