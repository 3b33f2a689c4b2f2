"""Preflight: a request, then its series, against what a model can do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tollama.capabilities import Capabilities, Covariates, Option, Quantiles
from tollama.contract import ForecastRequest
from tollama.errors import InvalidSeries, UnsupportedByModel
from tollama.preflight import Plan, check, fit
from tollama.registry import Defaults, find
from tollama.seam import Item

NAN = np.nan
OPTIONS = {
    "seed": Option(type="int", default=0, minimum=0),
    "extrapolate_quantiles": Option(type="bool", default=False),
    "context_length": Option(type="int", minimum=1, maximum=8),
    "temperature": Option(type="float", default=1.0, minimum=0.5, maximum=2),
    "patch": Option(type="str", default="auto", choices=("auto", "8")),
}
CAN = Capabilities(
    max_context=8,
    min_context=2,
    max_horizon=20,
    native_horizon=10,
    quantiles=Quantiles(native=(0.1, 0.5, 0.9), method="interpolated"),
    options=OPTIONS,
)


def request(**more: Any) -> ForecastRequest:
    series = [{"id": "a", "target": [1.0], "start": "2024-01-01", "freq": "D"}]
    return ForecastRequest(**{"model": "m", "horizon": 5, "series": series, **more})


def item(target: list[float], **more: Any) -> Item:
    return Item("shop", np.array(target), "D", 7, **more)


def plan(context_length: int = 8) -> Plan:
    return Plan({}, (), context_length, ())


def test_a_plain_request_has_every_option_and_no_warning() -> None:
    assert check(request(), "m", CAN) == Plan(
        {"seed": 0, "extrapolate_quantiles": False, "context_length": 8, "temperature": 1.0, "patch": "auto"},
        (0.1, 0.5, 0.9),
        8,
        (),
    )


def test_the_horizon_limit_is_named() -> None:
    assert check(request(horizon=20), "m", CAN).warnings
    with pytest.raises(UnsupportedByModel, match="at most 20 steps; 21 are asked") as caught:
        check(request(horizon=21), "m", CAN)
    assert caught.value.hint == "Ask for at most 20 steps."


def test_a_roll_out_is_warned_of() -> None:
    assert check(request(horizon=10), "m", CAN).warnings == ()
    (warning,) = check(request(horizon=11), "m", CAN).warnings
    assert "10 steps in one pass" in warning


def test_siblings_that_reach_the_horizon_are_named_nearest_first() -> None:
    short = find("granite-ttm-r2-1024-96")
    with pytest.raises(UnsupportedByModel) as caught:
        check(request(horizon=300), short.name, short.capabilities)
    assert "or use granite-ttm-r2-1024-336, granite-ttm-r2-1024-720, " in caught.value.hint
    assert caught.value.hint.count("granite-ttm") == 5


def test_options_come_from_the_request_then_the_entry_then_the_option() -> None:
    defaults = Defaults(options={"seed": 7, "temperature": 2})
    options = check(request(options={"seed": 9}), "m", CAN, defaults).options
    assert (options["seed"], options["temperature"], options["patch"]) == (9, 2.0, "auto")
    assert isinstance(options["temperature"], float)


def test_quantiles_of_the_entry_hold_unless_the_request_has_its_own() -> None:
    defaults = Defaults(quantiles=(0.2, 0.8))
    assert check(request(), "m", CAN, defaults).quantiles == (0.2, 0.8)
    assert check(request(quantiles=[0.3]), "m", CAN, defaults).quantiles == (0.3,)
    assert check(request(quantiles=[]), "m", CAN, defaults).quantiles == ()


def test_an_undeclared_option_is_refused_with_the_declared_ones() -> None:
    with pytest.raises(UnsupportedByModel, match=r"options\.top_k is not an option") as caught:
        check(request(options={"top_k": 5}), "m", CAN)
    assert "context_length, extrapolate_quantiles, patch, seed, temperature" in caught.value.hint


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 1.0}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"seed": "1"}, "seed must be a whole number"),
        ({"seed": None}, "seed must be a whole number"),
        ({"temperature": True}, "temperature must be a number"),
        ({"temperature": 2.5}, "temperature must be at most 2"),
        ({"temperature": float("nan")}, "temperature must be finite"),
        ({"extrapolate_quantiles": 1}, "extrapolate_quantiles must be true or false"),
        ({"patch": "16"}, "patch must be one of auto, 8"),
        ({"patch": 8}, "patch must be a text"),
        ({"context_length": 0}, "context_length must be at least 1"),
        ({"context_length": 9}, "context_length must be at most 8"),
    ],
)
def test_an_option_of_the_wrong_kind_or_range_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedByModel, match=rf"options\.{said}"):
        check(request(options=options), "m", CAN)


def test_all_option_faults_are_told_at_once() -> None:
    with pytest.raises(UnsupportedByModel) as caught:
        check(request(options={"seed": -1, "x": 1, "patch": 3}), "m", CAN)
    assert sorted(fault["loc"][1] for fault in caught.value.detail) == ["patch", "seed", "x"]


def test_the_context_asked_for_is_the_plan() -> None:
    found = check(request(options={"context_length": 3}), "m", CAN)
    assert (found.context_length, found.options["context_length"]) == (3, 3)
    assert check(request(options={"context_length": None}), "m", CAN).context_length == 8


@pytest.mark.parametrize("levels", [[0.05, 0.5], [0.5, 0.95]])
def test_a_quantile_outside_the_native_range_needs_the_option(levels: list[float]) -> None:
    with pytest.raises(UnsupportedByModel, match=r"from 0\.1 to 0\.9") as caught:
        check(request(quantiles=levels), "m", CAN)
    assert "options.extrapolate_quantiles" in caught.value.hint
    found = check(request(quantiles=levels, options={"extrapolate_quantiles": True}), "m", CAN)
    assert found.quantiles == tuple(levels)
    assert "extrapolated" in found.warnings[0]


def test_a_model_of_fixed_levels_gives_no_others() -> None:
    fixed = CAN.model_copy(update={"quantiles": Quantiles(native=(0.1, 0.5), arbitrary=False)})
    assert check(request(quantiles=[0.5]), "m", fixed).quantiles == (0.5,)
    with pytest.raises(UnsupportedByModel, match=r"0\.1, 0\.5 and no others"):
        check(request(quantiles=[0.2]), "m", fixed)


def test_any_level_of_a_sampling_model() -> None:
    sampled = CAN.model_copy(update={"quantiles": Quantiles(method="sampled")})
    assert check(request(quantiles=[0.001, 0.999]), "m", sampled).warnings == ()


def test_conformal_quantiles_are_marked_where_asked() -> None:
    conformal = CAN.model_copy(update={"quantiles": Quantiles(method="conformal")})
    assert "conformal" in check(request(), "m", conformal).warnings[0]
    assert check(request(quantiles=[]), "m", conformal).warnings == ()


def test_a_fitting_series_passes_untouched() -> None:
    one = item([1.0, 2.0, 3.0])
    assert fit(one, plan(), CAN) == (one, ())
    assert fit(one, plan(), CAN)[0] is one


def test_history_over_the_limit_is_cut_with_its_covariates_and_warned_of() -> None:
    can = CAN.model_copy(update={"covariates": Covariates(past_numeric=True, past_categorical=True)})
    long = item(
        list(range(10)), past_covariates={"x": np.arange(10.0), "k": np.array(list("abcdefghij"), dtype=object)}
    )
    short, (warning,) = fit(long, plan(), can)
    np.testing.assert_array_equal(short.target, np.arange(2.0, 10.0))
    np.testing.assert_array_equal(short.past_covariates["x"], np.arange(2.0, 10.0))
    assert "".join(short.past_covariates["k"]) == "cdefghij"
    assert "'shop'" in warning
    assert "newest 8 of 10" in warning


def test_history_cut_as_asked_is_no_warning() -> None:
    short, warnings = fit(item([1.0, 2.0, 3.0, 4.0]), plan(3), CAN)
    np.testing.assert_array_equal(short.target, [2.0, 3.0, 4.0])
    assert warnings == ()


def test_conformal_quantiles_keep_the_history_that_their_errors_are_from() -> None:
    can = CAN.model_copy(update={"quantiles": Quantiles(method="conformal"), "missing_values": True})
    asked = Plan({}, (0.1, 0.9), 8, ())
    long = item(list(range(10)))
    kept, (warning,) = fit(long, asked, can)
    assert kept.target.size == 10
    assert "newest 8 of 10 steps, the model's limit, but for the errors" in warning
    assert fit(long, plan(), can)[0].target.size == 8
    with pytest.raises(InvalidSeries, match="no value in its last 8 steps"):
        fit(item([1.0, 2.0, *[NAN] * 8]), asked, can)


def test_missing_values_are_filled_unless_the_model_takes_them() -> None:
    gappy = item([NAN, 1.0, NAN, NAN, 4.0, NAN])
    filled, (warning,) = fit(gappy, plan(), CAN)
    np.testing.assert_array_equal(filled.target, [1.0, 1.0, 2.0, 3.0, 4.0, 4.0])
    assert "4 missing values" in warning
    kept, warnings = fit(gappy, plan(), CAN.model_copy(update={"missing_values": True}))
    assert kept is gappy
    assert warnings == ()


def test_gaps_of_covariates_are_filled_and_text_is_left() -> None:
    can = CAN.model_copy(update={"covariates": Covariates(future_numeric=True, future_categorical=True)})
    text = np.array(["a", None], dtype=object)
    one = item(
        [1.0, 2.0],
        past_covariates={"x": np.array([NAN, 5.0]), "y": np.array([NAN, NAN]), "k": text},
        future_covariates={"x": np.array([6.0, NAN]), "y": np.array([1.0, 1.0]), "k": text},
    )
    filled, (warning,) = fit(one, plan(), can)
    assert filled.past_covariates["x"].tolist() == [5.0, 5.0]
    assert filled.past_covariates["y"].tolist() == [0.0, 0.0]
    assert filled.future_covariates["x"].tolist() == [6.0, 6.0]
    assert filled.past_covariates["k"].tolist() == ["a", None]
    assert "covariates" in warning


def test_a_series_without_values_where_the_model_reads_is_refused() -> None:
    with pytest.raises(InvalidSeries, match="'shop' holds no value in its last 2 steps"):
        fit(item([1.0, NAN, NAN]), plan(2), CAN)


def test_too_short_a_series_is_refused_with_the_minimum() -> None:
    with pytest.raises(InvalidSeries, match="1 steps; the model needs at least 2") as caught:
        fit(item([1.0]), plan(), CAN)
    assert caught.value.series_id == "shop"


COVARIATES = {
    "past_covariates": {
        "price": np.array([1.0, 2.0]),
        "plan": np.array([1.0, 2.0]),
        "day": np.array(["mo", "tu"], dtype=object),
    },
    "future_covariates": {"plan": np.array([3.0])},
    "static_covariates": {"town": "Bern"},
}


@pytest.mark.parametrize(
    ("takes", "past", "future", "refused"),
    [
        (
            Covariates(),
            [],
            [],
            ["price (past numeric)", "plan (future numeric)", "day (past categorical)", "town (static)"],
        ),
        (
            Covariates(past_numeric=True),
            ["price", "plan"],
            [],
            ["plan (future numeric)", "day (past categorical)", "town (static)"],
        ),
        (
            Covariates(future_numeric=True, static=True),
            ["plan"],
            ["plan"],
            ["price (past numeric)", "day (past categorical)"],
        ),
        (
            Covariates(past_numeric=True, past_categorical=True, future_numeric=True, static=True),
            ["price", "plan", "day"],
            ["plan"],
            [],
        ),
    ],
)
def test_covariates_not_taken_are_dropped_or_refused(
    takes: Covariates, past: list[str], future: list[str], refused: list[str]
) -> None:
    can = CAN.model_copy(update={"covariates": takes})
    kept, warnings = fit(item([1.0, 2.0], **COVARIATES), plan(), can)
    assert list(kept.past_covariates) == past
    assert list(kept.future_covariates) == future
    assert dict(kept.static_covariates) == ({"town": "Bern"} if takes.static else {})
    assert [f"Series 'shop': covariates that the model does not take were dropped: {', '.join(refused)}."][
        : len(refused)
    ] == list(warnings)
    if refused:
        with pytest.raises(UnsupportedByModel) as caught:
            fit(item([1.0, 2.0], **COVARIATES), plan(), can, "strict")
        assert ", ".join(refused) in str(caught.value)
    else:
        fit(item([1.0, 2.0], **COVARIATES), plan(), can, "strict")


@given(
    arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e6, 1e6) | st.just(NAN)),
    st.integers(2, 8),
    st.booleans(),
)
def test_what_comes_out_is_within_the_limits_or_refused(target: Any, context: int, missing: bool) -> None:
    can = CAN.model_copy(update={"missing_values": missing})
    try:
        fitted, _ = fit(Item("a", target, "D", 1), plan(context), can)
    except InvalidSeries:
        assert np.isnan(target[-context:]).all()
        return
    assert fitted.target.size == min(target.size, context)
    assert missing or not np.isnan(fitted.target).any()
    known = ~np.isnan(target[-context:])
    np.testing.assert_array_equal(fitted.target[known], target[-context:][known])
