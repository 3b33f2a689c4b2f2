"""Small Moirai models of the real architectures with random weights, in the files and folders that the hub has.

Runs inside the environment of the family uni2ts. The same name gives the same bytes every time.
"""

from __future__ import annotations

import sys
from typing import Any

COMMON = {"max_seq_len": 512, "attn_dropout_p": 0.0, "dropout_p": 0.0, "scaling": True}
PATCH_SIZES = (8, 16, 32, 64, 128)
# The sizes called "small" have the published numbers of parameters: 13.8, 117.0 and 11.4 million.
MOIRAI = {
    "moirai-tiny": {"d_model": 64, "num_layers": 2},
    "moirai-small": {"d_model": 384, "num_layers": 6},
}
MOIRAI_MOE = {
    "moirai-moe-tiny": {"d_model": 64, "d_ff": 32, "num_layers": 2},
    "moirai-moe-small": {"d_model": 384, "d_ff": 512, "num_layers": 6},
}
MOIRAI_2 = {
    "moirai-2-tiny": {"d_model": 64, "d_ff": 128, "num_layers": 2},
    "moirai-2-small": {"d_model": 384, "d_ff": 1024, "num_layers": 6},
}


def build(name: str, folder: str) -> str:
    """Write the checkpoint ``name`` into ``folder``, which it makes, and return that."""
    import torch

    torch.manual_seed(1234)
    _network(name).save_pretrained(folder)
    return folder


def _network(name: str) -> Any:
    import torch

    if name in MOIRAI_2:
        from uni2ts.model.moirai2 import Moirai2Module

        return Moirai2Module(**MOIRAI_2[name], **COMMON, patch_size=16, num_predict_token=4)
    if name in MOIRAI_MOE:
        from uni2ts.model.moirai_moe import MoiraiMoEModule

        network = MoiraiMoEModule(_distribution(), **MOIRAI_MOE[name], **COMMON, patch_sizes=(16,))
        # The experts' centroids are made as memory comes, not drawn.
        torch.nn.init.normal_(network.encoder.centroid)
        return network
    from uni2ts.model.moirai import MoiraiModule

    return MoiraiModule(_distribution(), **MOIRAI[name], **COMMON, patch_sizes=PATCH_SIZES)


def _distribution() -> Any:
    from uni2ts.distribution import (
        LogNormalOutput,
        MixtureOutput,
        NegativeBinomialOutput,
        NormalFixedScaleOutput,
        StudentTOutput,
    )

    return MixtureOutput([StudentTOutput(), NormalFixedScaleOutput(), NegativeBinomialOutput(), LogNormalOutput()])


if __name__ == "__main__":
    print(build(*sys.argv[1:3]))
