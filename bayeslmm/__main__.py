"""``python -m bayeslmm``: the command line."""

from bayeslmm.cli import main

main()
