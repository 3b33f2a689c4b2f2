"""Small Granite models with random weights, in the files and folders that the hub has of them.

Runs inside the family's environment. The same name gives the same bytes every time.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

TTM: dict[str, dict[str, Any]] = {
    # The published shape of Tiny Time Mixer r2, 512-96: 805,280 parameters, 3.2 MB.
    "ttm-r2": {
        "context_length": 512,
        "prediction_length": 96,
        "patch_length": 64,
        "d_model": 192,
        "num_layers": 2,
        "decoder_d_model": 128,
        "decoder_num_layers": 2,
        "adaptive_patching_levels": 3,
    },
    "ttm-r2-tiny": {"context_length": 512, "prediction_length": 720, "patch_length": 64, "adaptive_patching_levels": 2},
    # Of the revisions with -ft- the frequency is an input.
    "ttm-ft-tiny": {
        "context_length": 52,
        "prediction_length": 16,
        "patch_length": 4,
        "resolution_prefix_tuning": True,
        "frequency_token_vocab_size": 10,
    },
    "ttm-r3-tiny": {
        "context_length": 1024,
        "prediction_length": 720,
        "patch_length": 64,
        "multi_quantile_head": True,
        "mq_use_decoder_pool": True,
        "register_tokens": 2,
        "multi_scale": True,
    },
    # Of those with -dec- the trend and what remains are forecast apart.
    "ttm-dec-tiny": {
        "context_length": 512,
        "prediction_length": 30,
        "patch_length": 9,
        "trend_patch_length": 64,
        "trend_patch_stride": 64,
        "residual_context_length": 90,
        "multi_quantile_head": True,
        "decompose": True,
    },
}
SMALL = {"d_model": 16, "num_layers": 1, "decoder_d_model": 8, "decoder_num_layers": 1}
FLOWSTATE: dict[str, dict[str, int]] = {
    # The published shape of FlowState r1, which is the library's default: 9,069,312 parameters, 36 MB.
    "flowstate": {},
    "flowstate-tiny": {
        "embedding_feature_dim": 16,
        "encoder_num_layers": 2,
        "encoder_state_dim": 16,
        "encoder_num_hippo_blocks": 2,
        "decoder_dim": 16,
    },
}
PATCHTST_FM = {
    # The published shape of PatchTST-FM r1: 257,895,552 parameters, 1.03 GB.
    "patchtst-fm": {"d_model": 1024, "n_head": 16, "n_layer": 20},
    "patchtst-fm-tiny": {"d_model": 16, "n_head": 2, "n_layer": 2},
}


def build(name: str, folder: str) -> str:
    """Write the checkpoint ``name`` into ``folder``, which it makes, and return that."""
    import torch
    from transformers.utils import logging

    from deployments.adapters._torch import quiet_granite

    quiet_granite()
    torch.manual_seed(1234)
    network = _ttm(name) if name in TTM else _flowstate(name) if name in FLOWSTATE else _patchtst_fm(name)
    Path(folder).mkdir(parents=True)
    network.eval().save_pretrained(folder)
    logging.enable_progress_bar()
    return folder


def _ttm(name: str) -> Any:
    from tsfm_public.models import tinytimemixer as ttm

    shape = {"patch_stride": TTM[name]["patch_length"], **SMALL, **TTM[name]}
    config = ttm.TinyTimeMixerConfig(**shape)
    return (ttm.TinyTimeMixerForDecomposedPrediction if config.decompose else ttm.TinyTimeMixerForPrediction)(config)


def _flowstate(name: str) -> Any:
    from tsfm_public.models.flowstate import FlowStateConfig, FlowStateForPrediction

    return FlowStateForPrediction(FlowStateConfig(**FLOWSTATE[name]))


def _patchtst_fm(name: str) -> Any:
    from tsfm_public.models.patchtst_fm import PatchTSTFMConfig, PatchTSTFMForPrediction

    return PatchTSTFMForPrediction(PatchTSTFMConfig(**PATCHTST_FM[name]))
