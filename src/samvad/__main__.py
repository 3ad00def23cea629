"""`python -m samvad` is `samvad`."""

from samvad.cli import main

if __name__ == "__main__":
    main()
