"""Makes calls inside a family's environment for whoever started this: ``python inside.py DESCRIPTOR``.

DESCRIPTOR is one end of a pipe: (``module:function``, keyword arguments) comes in, and what the function returned goes
out. A module is one beside this file or of the checkout. What they print is left to whoever started this.
"""

from __future__ import annotations

import importlib
import sys
from multiprocessing.connection import Connection


def main(descriptor: int) -> None:
    with Connection(descriptor) as asked:
        while True:
            try:
                target, arguments = asked.recv()
            except EOFError:
                return
            module, _, function = target.partition(":")
            asked.send(getattr(importlib.import_module(module), function)(**arguments))


if __name__ == "__main__":
    main(int(sys.argv[1]))
