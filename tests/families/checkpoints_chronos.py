"""Small Chronos-2 and Chronos-T5 models with random weights, in the files and folders that the hub has of them.

Runs inside the family's environment. The same name gives the same bytes every time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHRONOS_2 = {
    # The published shape of Chronos-2: 119,477,664 parameters, 478 MB.
    "chronos-2": {"d_model": 768, "d_ff": 3072, "d_kv": 64, "num_layers": 12, "num_heads": 12},
    "chronos-2-tiny": {"d_model": 32, "d_ff": 64, "d_kv": 8, "num_layers": 2, "num_heads": 4},
}
T5 = {
    # The published shape of Chronos-T5 (small): 46,154,240 parameters, 185 MB.
    "t5-small": {"d_model": 512, "d_ff": 2048, "d_kv": 64, "num_heads": 8, "num_layers": 6, "num_decoder_layers": 6},
    "t5-tiny": {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1},
}
LEVELS = [0.01, *(round(0.05 * step, 2) for step in range(1, 20)), 0.99]


def build(name: str, folder: str) -> str:
    """Write the checkpoint ``name`` into ``folder``, which it makes, and return that."""
    import torch
    from transformers.utils import logging

    torch.manual_seed(1234)
    network = _chronos_2(CHRONOS_2[name]) if name in CHRONOS_2 else _t5(T5[name])
    Path(folder).mkdir(parents=True)
    logging.disable_progress_bar()
    network.eval().save_pretrained(folder)
    logging.enable_progress_bar()
    return folder


def _chronos_2(shape: dict[str, int]) -> Any:
    from chronos.chronos2.config import Chronos2CoreConfig
    from chronos.chronos2.model import Chronos2Model

    config = Chronos2CoreConfig(
        **shape,
        dropout_rate=0.1,
        feed_forward_proj="relu",
        initializer_factor=0.05,
        pad_token_id=0,
        vocab_size=2,
        architectures=["Chronos2Model"],
        chronos_pipeline_class="Chronos2Pipeline",
        chronos_config={
            "context_length": 8192,
            "output_patch_size": 16,
            "input_patch_size": 16,
            "input_patch_stride": 16,
            "quantiles": LEVELS,
            "use_reg_token": True,
            "use_arcsinh": True,
            "max_output_patches": 64,
            "time_encoding_scale": 8192,
        },
    )
    network = Chronos2Model(config)
    network.encoder.final_layer_norm.weight.data.fill_(1.0)  # else what covariates say is lost in rounding
    return network


def _t5(shape: dict[str, int]) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        **shape,
        dropout_rate=0.1,
        feed_forward_proj="relu",
        initializer_factor=0.05,
        is_encoder_decoder=True,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        vocab_size=4096,
        use_cache=True,
        architectures=["T5ForConditionalGeneration"],
        chronos_config={
            "tokenizer_class": "MeanScaleUniformBins",
            "tokenizer_kwargs": {"low_limit": -15.0, "high_limit": 15.0},
            "context_length": 512,
            "prediction_length": 64,
            "n_tokens": 4096,
            "n_special_tokens": 2,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "use_eos_token": True,
            "model_type": "seq2seq",
            "num_samples": 20,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0,
        },
    )
    return T5ForConditionalGeneration(config)
