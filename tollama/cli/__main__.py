"""``python -m tollama.cli`` is the ``tollama`` command."""

from tollama.cli import main

main()
