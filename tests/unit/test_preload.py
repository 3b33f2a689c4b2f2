"""What a process of Ray's has imported before it is asked for anything."""

from __future__ import annotations

import subprocess
import sys

import pytest

ASKED = """
import sys
{first}
import deployments.preload
assert "ray.serve" in sys.modules
print("pandas" in sys.modules)
import gc, pandas
assert gc.isenabled()
assert pandas.Series([1.0, 2.0]).sum() == 3.0
"""


@pytest.mark.parametrize(("first", "there"), [("", False), ("import pandas", True)])
def test_ray_serve_comes_without_pandas_which_can_be_had_afterwards(first: str, there: bool) -> None:
    done = subprocess.run([sys.executable, "-c", ASKED.format(first=first)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, str(there)), done.stderr
