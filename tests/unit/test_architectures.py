"""What a config.json is told to be: the architecture, its limits, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tollama import architectures as module
from tollama.architectures import Architecture, card, detect, entry, parse, served
from tollama.errors import ConfigError, UnsupportedRepository
from tollama.families import families
from tollama.licenses import named
from tollama.registry import Source, data_files, registry, rows

TENTHS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
BOLT = {
    "architectures": ["ChronosBoltModelForForecasting"],
    "model_type": "t5",
    "chronos_config": {"context_length": 2048, "prediction_length": 64, "quantiles": TENTHS},
}
TTM = {
    "architectures": ["TinyTimeMixerForPrediction"],
    "model_type": "tinytimemixer",
    "num_input_channels": 1,
    "loss": "mse",
    "multi_quantile_head": False,
    "quantile_levels": TENTHS,
    "context_length": 512,
    "prediction_length": 96,
    "prediction_filter_length": None,
}
MOIRAI = {"distr_output": {"_target_": "uni2ts.distribution.mixture.MixtureOutput"}, "d_model": 384, "max_seq_len": 512}

# What the libraries write, as far as it is looked at; then adapter, context, horizon, native horizon, levels, point.
KINDS: dict[str, tuple[dict[str, Any], tuple[Any, ...]]] = {
    "bolt": (BOLT, ("chronos-bolt", 2048, 1024, 64, 9, "median")),
    "t5": (
        {
            "architectures": ["T5ForConditionalGeneration"],
            "chronos_config": {"context_length": 512, "prediction_length": 64},
        },
        ("chronos-t5", 512, 512, 64, 0, "mean"),
    ),
    "chronos-2": (
        {
            "architectures": ["Chronos2Model"],
            "chronos_config": {
                "context_length": 8192,
                "max_output_patches": 64,
                "output_patch_size": 16,
                "quantiles": [0.01, *TENTHS, 0.99],
            },
        },
        ("chronos-2", 8192, 8192, 1024, 11, "median"),
    ),
    "ttm": (TTM, ("granite-ttm", 512, 96, None, 0, "mean")),
    "ttm of the median": (TTM | {"loss": "mae"}, ("granite-ttm", 512, 96, None, 0, "median")),
    "ttm cut short": (TTM | {"prediction_filter_length": 30}, ("granite-ttm", 512, 30, None, 0, "mean")),
    "ttm with quantiles": (
        TTM | {"multi_quantile_head": True, "context_length": 1024},
        ("granite-ttm", 1024, 96, None, 9, "median"),
    ),
    "flowstate": (
        {"model_type": "flowstate", "context_length": 4096, "prediction_type": "median", "quantiles": TENTHS},
        ("flowstate", 4096, 4096, None, 9, "median"),
    ),
    "patchtst-fm": (
        {"model_type": "patchtst_fm", "context_length": 8192, "quantile_levels": [q / 100 for q in range(1, 100)]},
        ("patchtst-fm", 7168, 1024, None, 99, "mean"),
    ),
    "timesfm 3": (
        {"residual_block_config": {"hidden_dims": 32}, "transformer_config": {"num_layers": 2}, "quantiles": TENTHS},
        ("timesfm-3.0", 15360, 4096, None, 9, "median"),
    ),
    "timesfm 2.5": ({"torch_compile": True}, ("timesfm-2.5", 15360, 1024, 128, 9, "median")),
    "timesfm 2.5 by its card": (
        {"card": {"library_name": "timesfm", "tags": ["pytorch", "timesfm-2.5"]}},
        ("timesfm-2.5", 15360, 1024, 128, 9, "median"),
    ),
    "moirai": (MOIRAI | {"patch_sizes": [8, 16, 32, 64, 128]}, ("moirai", 5000, 1024, None, 0, "mean")),
    "moirai-moe": (MOIRAI | {"patch_sizes": [16], "d_ff": 512}, ("moirai-moe", 5000, 256, 16, 0, "mean")),
    "moirai-2": (
        {"max_seq_len": 256, "patch_size": 16, "num_predict_token": 4, "quantile_levels": TENTHS},
        ("moirai-2", 4096, 1024, 64, 9, "median"),
    ),
}


@pytest.mark.parametrize(("config", "expected"), KINDS.values(), ids=KINDS)
def test_every_architecture_is_known_by_its_config(config: dict[str, Any], expected: tuple[Any, ...]) -> None:
    kind = detect(config)
    can = kind.limits(config)
    adapter, context, horizon, native, levels, point = expected
    assert kind.adapter == adapter
    assert (can.max_context, can.max_horizon, can.native_horizon) == (context, horizon, native)
    assert (len(can.quantiles.native), can.point) == (levels, point)
    if option := can.options.get("context_length"):
        assert option.maximum == context


def test_every_adapter_of_the_registry_has_an_architecture_and_the_same_files() -> None:
    on_hub = {entry.adapter: entry for entry in registry().values() if entry.source.type == "huggingface"}
    assert {kind.adapter for kind in served()} == set(on_hub)
    for kind in served():
        assert kind.adapter in families()[kind.family].adapters
        assert (kind.family, kind.files) == (on_hub[kind.adapter].family, on_hub[kind.adapter].files)
        assert kind.requires == on_hub[kind.adapter].requires


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({"model_type": "gpt2"}, "gpt2"),
        ({"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"}, "T5ForConditionalGeneration"),
        ({"architectures": ["\x1b[31m<evil>"]}, "(none is named)"),
        (TTM | {"num_input_channels": 7}, "TinyTimeMixerForPrediction"),
        ({}, "(none is named)"),
    ],
)
def test_another_architecture_is_refused_by_name(config: dict[str, Any], name: str) -> None:
    with pytest.raises(UnsupportedRepository) as caught:
        detect(config)
    assert str(caught.value) == f"The architecture {name} is not one that tollama serves."
    assert {"Chronos-Bolt", "Moirai 2", "TimesFM 2.5", "FlowState"} <= set(caught.value.detail["served"])
    assert "Chronos-Bolt" in caught.value.hint


def test_code_of_its_own_is_refused_whatever_the_architecture() -> None:
    with pytest.raises(UnsupportedRepository, match="code of its own"):
        detect(BOLT | {"auto_map": {"AutoModel": "evil.Evil"}})


@pytest.mark.parametrize(
    "said",
    [
        {"context_length": 10**12},
        {"context_length": 0},
        {"context_length": "many"},
        {"prediction_length": [1]},
        {"quantiles": [0.9, 0.1]},
        {"quantiles": [0.0, 0.5]},
        {"quantiles": "all"},
        {"quantiles": [float("nan")]},
    ],
)
def test_limits_that_cannot_be_are_refused(said: dict[str, Any]) -> None:
    config = BOLT | {"chronos_config": BOLT["chronos_config"] | said}  # type: ignore[operator]
    with pytest.raises(UnsupportedRepository, match="limits that no model can have"):
        detect(config).limits(config)


def test_what_a_config_does_not_say_is_that_of_the_kind() -> None:
    config = {"architectures": ["ChronosBoltModelForForecasting"]}
    assert detect(config).limits(config) == registry()["chronos-bolt-small"].capabilities


def test_the_entry_of_such_a_model() -> None:
    source = Source(type="huggingface", repo_id="acme/bolt", revision="main")
    made = entry("acme--bolt", detect(BOLT), BOLT, source, named("mit"), ["config.json", "model.safetensors"])
    assert (made.family, made.adapter, made.license.id) == ("torch", "chronos-bolt", "MIT")
    assert made.description == "Chronos-Bolt, a fast quantile forecaster by Amazon. From acme/bolt."


@pytest.mark.parametrize("paths", [["config.json", "pytorch_model.bin"], ["sub/model.safetensors"], []])
def test_pickled_weights_alone_are_refused(paths: list[str]) -> None:
    with pytest.raises(UnsupportedRepository, match="safetensors"):
        entry("a", detect(BOLT), BOLT, Source(type="local"), named("mit"), paths)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_config_is_refused(content: bytes) -> None:
    with pytest.raises(UnsupportedRepository, match=r"config\.json"):
        parse(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"---\nlicense: mit\ntags: [a]\n---\n# Model\n", {"license": "mit", "tags": ["a"]}),
        (b"---\r\nlicense: mit\r\n---\r\n", {"license": "mit"}),
        (b"# Model\n---\nlicense: mit\n---\n", {}),
        (b"---\nlicense: [\n---\n", {}),
        (b"---\n- a\n---\n", {}),
        (b"---\nlicense: mit\ndate: 2024-02-30\n---\n", {}),
        (b"---\nx: !!python/object/apply:os.system [id]\n---\n", {}),
        (b"", {}),
    ],
)
def test_the_front_matter_of_a_model_card(content: bytes, said: dict[str, Any]) -> None:
    assert card(content) == said


def test_a_family_brings_architectures_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = tmp_path / "theirs.yaml"
    row = {
        "name": "Theirs",
        "match": {"model_type": "theirs"},
        "family": "theirs",
        "adapter": "them",
        "files": ["config.json", "*.safetensors"],
        "capabilities": {"max_context": 64, "max_horizon": 8},
        "told": {"max_context": "window - 8"},
        "description": "A stranger's model.",
    }
    theirs.write_text(json.dumps({"models": [], "architectures": [row]}))
    monkeypatch.setattr(module, "data_files", lambda: [*data_files(), theirs])
    monkeypatch.setattr(module, "served", module.served.__wrapped__)
    config = {"model_type": "theirs", "window": 40}
    assert detect(config).adapter == "them"
    assert detect(config).limits(config).max_context == 32
    theirs.write_text(json.dumps({"models": [], "architectures": [row | {"match": {}}]}))
    with pytest.raises(ConfigError, match=r"theirs\.yaml: Theirs: match"):
        list(rows(theirs, "architectures", Architecture))
