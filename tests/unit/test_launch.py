"""What the child of ``tollama serve`` refuses before it starts anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.launch import main


@pytest.mark.parametrize(
    ("application", "told"),
    [
        ({"args": {"families": {"torch": {"num_gpu": 1}}}}, "args.families.torch.num_gpu: Extra inputs"),
        ({"args": {"families": {"torch": {"num_gpus": 1.5}}}}, "args.families.torch.num_gpus: .* whole number"),
        ({"autoscaling_policy": {"policy_kwargs": {"lingers": 1}}}, "policy_kwargs: .*lingers"),
    ],
)
def test_a_config_that_makes_no_graph(tmp_path: Path, application: dict[str, Any], told: str) -> None:
    config = tmp_path / "serve_config.yaml"
    config.write_text(yaml.safe_dump({"applications": [application]}))
    with pytest.raises(SystemExit, match=told):
        main(str(config), str(tmp_path / "note"))
