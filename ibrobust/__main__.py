"""`python -m ibrobust` is the command line."""

from ibrobust.cli.main import main

if __name__ == "__main__":
    main()
