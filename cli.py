"""The command line from a checkout: python cli.py train ..."""

from ibrobust.cli.main import main

if __name__ == "__main__":
    main()
