"""Runs functions inside a family's environment: ``python inside.py CALLS RESULTS``.

CALLS is a pickled list of (module:function, keyword arguments), the modules those beside this file; RESULTS becomes
the pickled list of what they returned. What they print is left to whoever started this.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path


def main(calls: str, results: str) -> None:
    returned = []
    for target, arguments in pickle.loads(Path(calls).read_bytes()):
        module, _, function = target.partition(":")
        returned.append(getattr(importlib.import_module(module), function)(**arguments))
    Path(results).write_bytes(pickle.dumps(returned))


if __name__ == "__main__":
    main(*sys.argv[1:])
