"""python -m headstart: the same as the command `headstart`."""

from headstart.cli.entry import main

main()
