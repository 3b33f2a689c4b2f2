"""The registry: how it is read, and every entry of ours held to the rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tollama import registry as module
from tollama.contract import MAX_HORIZON, ForecastRequest
from tollama.errors import ConfigError, ModelNotFound
from tollama.families import families
from tollama.paths import data
from tollama.preflight import check
from tollama.registry import Entry, canonical_name, find, read, registry
from tollama.version import __version__

ADAPTERS = {
    "mock": {"mock"},
    "baseline": {"statsforecast"},
    "torch": {"chronos-bolt", "chronos-2", "chronos-t5", "granite-ttm", "flowstate", "patchtst-fm"},
    "timesfm": {"timesfm-2.5", "timesfm-3.0"},
    "uni2ts": {"moirai", "moirai-moe", "moirai-2"},
}
SAMPLING = {"chronos-t5", "moirai", "moirai-moe"}
FIXED_CONTEXT = {"granite-ttm"}
SEASONAL = {"statsforecast", "flowstate"}

NAMES = {
    "mock", "seasonal-naive", "auto-theta", "auto-ets",
    *(f"chronos-t5-{size}" for size in ("tiny", "mini", "small", "base", "large")),
    *(f"chronos-bolt-{size}" for size in ("tiny", "mini", "small", "base")),
    "chronos-2", "chronos-2-small", "chronos-2-synth",
    "granite-flowstate-r1", "granite-flowstate-r1.1", "granite-patchtst-fm-r1",
    "timesfm-2.5-200m", "timesfm-3.0",
    *(f"moirai-{version}-r-{size}" for version in ("1.0", "1.1") for size in ("small", "base", "large")),
    "moirai-moe-1.0-r-small", "moirai-moe-1.0-r-base", "moirai-2.0-r-small",
    "granite-ttm-r1-512-96", "granite-ttm-r1-1024-96",
    *(f"granite-ttm-r2-{context}-{steps}" for context in (512, 1024, 1536) for steps in (96, 192, 336, 720)),
    *(f"granite-ttm-r2.1-{shape}-ft{l1}" for shape in ("52-16", "90-30", "512-48", "512-96") for l1 in ("", "-l1")),
    "granite-ttm-r2.1-180-60-ft-l1", "granite-ttm-r2.1-360-60-ft-l1",
    *(
        f"granite-ttm-r3-{context}-{steps}{lite}"
        for context in (1024, 1536, 2048, 2560, 3072) for steps in (96, 720) for lite in ("", "-lite")
    ),
    *(
        f"granite-ttm-r3-{shape}{lite}"
        for shape in (
            "52-16-dec-52", "90-30-dec-90", "156-16-dec-52", "180-60-dec-180", "360-60-dec-360", "512-30-dec-90",
            "512-48-dec-512", "512-96-dec-512", "512-336-dec-512", "768-48-dec-512", "1024-48-dec-512",
        )
        for lite in ("", "-lite")
    ),
    *(f"ttm-research-r2-{context}-{steps}-ft" for context in (512, 1024, 1536) for steps in (96, 192, 336, 720)),
}  # fmt: skip

ENTRY = """
models:
- name: one
  family: mock
  adapter: mock
  source: {type: embedded}
  license: {id: MIT, needs_acceptance: false, verified: true, notice: n, url: u}
  capabilities: {max_context: 10, max_horizon: 5}
  details: {format: builtin, parameter_size: "0", quantization_level: none}
  description: d
"""

each_entry = pytest.mark.parametrize("entry", registry().values(), ids=lambda entry: entry.name)


def test_exactly_the_published_models_are_there() -> None:
    assert set(registry()) == NAMES


@each_entry
def test_name_family_and_adapter(entry: Entry) -> None:
    assert canonical_name(entry.name) == entry.name
    assert entry.adapter in ADAPTERS[entry.family]


@pytest.mark.parametrize("spec", [spec for spec in families().values() if spec.name in ADAPTERS], ids=lambda s: s.name)
def test_every_adapter_of_a_built_in_family_has_a_model(spec: object) -> None:
    used = {entry.adapter for entry in registry().values() if entry.family == spec.name}
    assert set(spec.adapters) <= used
    assert set(spec.adapters) <= ADAPTERS[spec.name]


@each_entry
def test_source_and_files(entry: Entry) -> None:
    if entry.source.type == "embedded":
        assert not entry.files
        assert entry.size_bytes == 0
        return
    assert re.fullmatch(r"[\w.-]+/[\w.-]+", entry.source.repo_id or "")
    revision = entry.source.revision or ""
    assert re.fullmatch(r"[0-9a-f]{40}", revision) or re.fullmatch(r"main|r1\.1|\d+[-_]\d+[-_\w.]*", revision)
    weights = ("*.safetensors", "*.safetensors.index.json")
    assert entry.files == ("config.json", "generation_config.json", *weights, "LICENSE*")
    assert entry.size_bytes is None or entry.size_bytes > 10**6


@each_entry
def test_license(entry: Entry) -> None:
    assert entry.license.needs_acceptance or entry.license.id == "Apache-2.0"
    assert entry.license.verified or entry.license.needs_acceptance
    assert entry.license.notice.endswith(".")
    assert entry.license.url.startswith("https://")


@pytest.mark.parametrize(
    "name", ["timesfm-3.0", "moirai-2.0-r-small", "moirai-1.1-r-base", "ttm-research-r2-512-96-ft"]
)
def test_non_commercial_weights_need_acceptance(name: str) -> None:
    assert find(name).license.needs_acceptance
    assert find(name).license.id != "Apache-2.0"


@each_entry
def test_limits_and_quantiles(entry: Entry) -> None:
    can = entry.capabilities
    assert can.min_context <= can.max_context
    assert can.max_horizon <= MAX_HORIZON
    assert can.native_horizon is None or can.native_horizon < can.max_horizon
    native = can.quantiles.native
    assert list(native) == sorted(set(native))
    assert all(0 < level < 1 for level in native)
    assert (can.quantiles.method == "interpolated") == bool(native)
    assert can.deterministic == (entry.adapter not in SAMPLING)
    assert (can.quantiles.method == "sampled") == (entry.adapter in SAMPLING)
    assert not can.multivariate


@each_entry
def test_options(entry: Entry) -> None:
    can = entry.capabilities
    seed = can.options["seed"]
    assert (seed.type, seed.default, seed.minimum, seed.maximum) == ("int", 0, 0, 2**32 - 1)
    assert (can.options["extrapolate_quantiles"].type, can.options["extrapolate_quantiles"].default) == ("bool", False)
    assert ("context_length" in can.options) == (entry.adapter not in FIXED_CONTEXT)
    if context := can.options.get("context_length"):
        assert (context.type, context.minimum, context.maximum) == ("int", can.min_context, can.max_context)
    assert ("num_samples" in can.options) == (entry.adapter in SAMPLING)
    assert ("cross_learning" in can.options) == (entry.adapter == "chronos-2")
    assert ("season_length" in can.options) == (entry.adapter in SEASONAL)
    assert all(option.help.endswith(".") for option in can.options.values())


@each_entry
def test_a_plain_request_passes_with_the_defaults(entry: Entry) -> None:
    request = ForecastRequest(
        model=entry.name, horizon=1, series=[{"id": "a", "target": [1.0, 2.0], "start": "2024-01-01", "freq": "D"}]
    )
    plan = check(request, entry.name, entry.capabilities, entry.defaults)
    assert set(plan.options) == set(entry.capabilities.options)
    assert plan.quantiles == (0.1, 0.5, 0.9)


@each_entry
def test_details_and_requirements(entry: Entry) -> None:
    assert entry.details.parameter_size
    assert entry.description.endswith(".")
    assert __version__ in SpecifierSet(entry.requires.tollama)
    assert all(str(SpecifierSet(wanted)) for wanted in entry.requires.libraries.values())
    assert bool(entry.requires.libraries) == (entry.family != "mock")


@pytest.mark.parametrize(
    "entry", [entry for entry in registry().values() if entry.adapter == "granite-ttm"], ids=lambda entry: entry.name
)
def test_a_tiny_time_mixer_is_what_its_name_says(entry: Entry) -> None:
    found = re.fullmatch(
        r"(?:granite-ttm|ttm-research)-(r\d(?:\.1)?)-(\d+)-(\d+)(-ft)?(-l1)?(-dec-\d+)?(-lite)?", entry.name
    )
    assert found
    release, context, horizon = found[1], int(found[2]), int(found[3])
    can = entry.capabilities
    assert (can.max_context, can.max_horizon, can.native_horizon) == (context, horizon, None)
    assert can.point == ("median" if release == "r3" or found[5] else "mean")
    assert can.quantiles.method == ("interpolated" if release == "r3" else "conformal")
    if not re.fullmatch(r"[0-9a-f]{40}|main|1024_96_v1", entry.source.revision or ""):
        shape = entry.name.removeprefix("granite-ttm-").removeprefix("ttm-research-").removeprefix(f"{release}-")
        assert entry.source.revision == f"{shape}-{release}"


def test_no_two_entries_are_the_same_files() -> None:
    sources = [(e.source.repo_id, e.source.revision) for e in registry().values() if e.source.repo_id]
    assert len(set(sources)) == len(sources)


def test_no_name_is_written_twice() -> None:
    raw = yaml.safe_load(data("model-registry/registry.yaml").read_text(encoding="utf-8"))
    assert len({model["name"] for model in raw["models"]}) == len(raw["models"])


def test_find_takes_any_case() -> None:
    assert find("Chronos-Bolt-SMALL").name == "chronos-bolt-small"


def test_an_unknown_name_hints_at_the_closest() -> None:
    with pytest.raises(ModelNotFound) as caught:
        find("chronos-bolt-smal")
    assert "chronos-bolt-small" in caught.value.hint
    with pytest.raises(ModelNotFound) as caught:
        find("zzzzzz")
    assert caught.value.hint == ModelNotFound.default_hint


@pytest.mark.parametrize("text", ["", "../etc", "a/b", "a b", "-a", ".a", "a" * 129, "a\n", "é", "a:b"])
def test_what_cannot_be_a_name_is_not_found_and_not_echoed(text: str) -> None:
    with pytest.raises(ModelNotFound) as caught:
        canonical_name(text)
    assert str(caught.value).startswith("That is not a model name")


def test_the_longest_name_is_one() -> None:
    assert canonical_name("A" * 128) == "a" * 128


def test_ollamas_tag_for_the_only_one_there_is_means_the_plain_name() -> None:
    assert canonical_name("Mock:Latest") == canonical_name("mock:latest") == "mock"
    assert find("chronos-bolt-small:latest").name == "chronos-bolt-small"
    for text in ("mock:7b", "mock:latest:latest", "mock:"):
        with pytest.raises(ModelNotFound) as refused:
            canonical_name(text)
        assert "no tags" in refused.value.hint
    for text in (":latest", "hf:org/name"):
        with pytest.raises(ModelNotFound) as refused:
            canonical_name(text)
        assert "no tags" not in refused.value.hint


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_horizon: 5", "max_horizon: 0", "one: capabilities.max_horizon"),
        ("  description: d", "  description: d\n  colour: red", "one: colour"),
        ("type: embedded", "type: huggingface", "one: source"),
        ("verified: true", "verified: false", "one: license: .*unverified licence needs acceptance"),
        ("name: one", "name: One", "One: name"),
        ("- name: one", "- nome: one", "#1: name"),
        ("models:", "models: [", "line 2|line 3"),
        ("models:", "modles:", "no list under 'models'"),
    ],
)
def test_a_malformed_file_says_which_entry_and_field(tmp_path: Path, old: str, new: str, said: str) -> None:
    file = tmp_path / "registry.yaml"
    file.write_text(ENTRY)
    assert [entry.name for entry in read(file)] == ["one"]
    file.write_text(ENTRY.replace(old, new, 1))
    with pytest.raises(ConfigError, match=said) as caught:
        list(read(file))
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml cannot be read"):
        list(read(tmp_path / "gone.yaml"))


def test_a_family_brings_its_own_models_but_not_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "theirs.yaml"
    spec = type("Spec", (), {"registry": file})()
    monkeypatch.setattr(module, "families", lambda: {"theirs": spec})
    file.write_text(ENTRY)
    assert registry.__wrapped__()["one"].family == "mock"
    file.write_text(ENTRY.replace("name: one", "name: mock"))
    with pytest.raises(ConfigError, match=r"theirs\.yaml: mock: is there twice"):
        registry.__wrapped__()
