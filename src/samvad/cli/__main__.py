"""`python -m samvad.cli` is the program `samvad`."""

from samvad.cli import main

main()
