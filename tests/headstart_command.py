"""The command `headstart`, as a script that tests can fork."""

from headstart.__main__ import main

if __name__ == "__main__":
    main()
