"""``python -m fmcs_bench``."""

from fmcs_bench.cli.main import main

if __name__ == "__main__":
    main()
