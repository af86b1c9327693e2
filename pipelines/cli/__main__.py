"""`python -m pipelines.cli` is the `zse` command of this interpreter."""

from pipelines.cli.app import main

if __name__ == "__main__":
    main()
