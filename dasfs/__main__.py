"""`python -m dasfs` is the command `dasfs`."""

from dasfs.cli.main import main

main()
