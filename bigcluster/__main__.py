"""`python -m bigcluster` is the command line."""

from bigcluster.cli import main

if __name__ == "__main__":
    main()
