"""Run `python cli.py ...` in a checkout; the installed command is `edgecl`."""

from edgecl.cli import main

if __name__ == "__main__":
    main()
