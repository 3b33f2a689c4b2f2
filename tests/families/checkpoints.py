"""Small models of the real architectures with random weights, in the files and folders that the hub has of them.

Runs inside a family's environment. The same name gives the same bytes every time.
"""

from __future__ import annotations

import sys
from pathlib import Path

BOLT = {
    # The published shape of Chronos-Bolt (small): 47,718,016 parameters, 191 MB.
    "bolt-small": {"d_model": 512, "d_ff": 2048, "d_kv": 64, "num_heads": 8, "num_layers": 6, "num_decoder_layers": 6},
    "bolt-tiny": {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_heads": 2, "num_layers": 2, "num_decoder_layers": 2},
}


def build(name: str, folder: str) -> str:
    """Write the checkpoint ``name`` into ``folder``, which it makes, and return that."""
    import torch
    from chronos.chronos_bolt import ChronosBoltModelForForecasting
    from transformers import T5Config
    from transformers.utils import logging

    config = T5Config(
        **BOLT[name],
        dropout_rate=0.1,
        feed_forward_proj="relu",
        initializer_factor=0.05,
        is_encoder_decoder=True,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        vocab_size=2,
        use_cache=True,
        architectures=["ChronosBoltModelForForecasting"],
        chronos_pipeline_class="ChronosBoltPipeline",
        chronos_config={
            "context_length": 2048,
            "prediction_length": 64,
            "input_patch_size": 16,
            "input_patch_stride": 16,
            "quantiles": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9],
            "use_reg_token": True,
        },
    )
    torch.manual_seed(1234)
    network = ChronosBoltModelForForecasting(config).eval()
    Path(folder).mkdir(parents=True)
    logging.disable_progress_bar()
    network.save_pretrained(folder)
    logging.enable_progress_bar()
    return folder


if __name__ == "__main__":
    print(build(*sys.argv[1:3]))
