"""`python -m repanalysis.cli`, for torchrun."""

from repanalysis.cli import main

if __name__ == "__main__":
    main()
