"""Small TimesFM models of the real architectures with random weights, in the files and folders that the hub has of
them; and of the real sizes.

Runs inside the family's environment. The same name gives the same bytes every time.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

NARROW = {"model_dims": 32, "hidden_dims": 32, "num_heads": 2}


def build(name: str, folder: str) -> str:
    """Write the checkpoint ``name`` into ``folder``, which it makes, and return that."""
    Path(folder).mkdir(parents=True)
    {"timesfm-2.5": _two_and_a_half, "timesfm-3.0": _three}[name.removesuffix("-tiny")](folder, name.endswith("-tiny"))
    return folder


def shrink() -> None:
    """TimesFM 2.5 has one shape, fixed in its code; from here on this process has it narrow, with two layers."""
    from timesfm.timesfm_2p5.timesfm_2p5_torch import TimesFM_2p5_200M_torch_module as Network

    real = Network.config
    stack, width = real.stacked_transformers, NARROW["model_dims"]

    def narrow(block: Any, **more: int) -> Any:
        return dataclasses.replace(block, hidden_dims=width, **more)

    Network.config = dataclasses.replace(
        real,
        tokenizer=narrow(real.tokenizer, output_dims=width),
        stacked_transformers=dataclasses.replace(
            stack, num_layers=2, transformer=dataclasses.replace(stack.transformer, **NARROW)
        ),
        output_projection_point=narrow(real.output_projection_point, input_dims=width),
        output_projection_quantiles=narrow(real.output_projection_quantiles, input_dims=width),
    )


def _two_and_a_half(folder: str, tiny: bool) -> None:
    import torch
    from safetensors.torch import save_file
    from timesfm import TimesFM_2p5_200M_torch

    if tiny:
        shrink()
    torch.manual_seed(1234)
    network = TimesFM_2p5_200M_torch(torch_compile=False).model
    with torch.no_grad():
        for name, weight in network.named_parameters():
            # Its norms start at zero, which would silence every layer.
            weight.fill_(1.0) if weight.dim() == 1 and "bias" not in name else weight.normal_(std=0.05)
    save_file(network.state_dict(), Path(folder) / "model.safetensors")


def _three(folder: str, tiny: bool) -> None:
    import torch
    from timesfm import TimesFM3Torch
    from timesfm3.torch.configs import ResidualBlockConfig, StackedTransformersConfig, TransformerConfig

    shape = NARROW if tiny else {"model_dims": 1280, "hidden_dims": 1280, "num_heads": 16}
    width = shape["model_dims"]
    torch.manual_seed(1234)
    network = TimesFM3Torch(
        residual_block_config=ResidualBlockConfig(width, width, use_bias=False, activation="relu"),
        transformer_config=StackedTransformersConfig(
            num_layers=2 if tiny else 20,
            transformer=TransformerConfig(
                **shape,
                attention_norm="rms",
                feedforward_norm="rms",
                qk_norm="rms",
                use_rope_seq=True,
                use_rope_var=True,
                use_bias=False,
                ff_activation="relu",
                deterministic=True,
            ),
        ),
    )
    network.save_pretrained(folder)


if __name__ == "__main__":
    print(build(*sys.argv[1:3]))
