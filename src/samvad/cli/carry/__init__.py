"""Carrying everything from one store to another, or into a file and back: `samvad migrate`, `backup`, `restore`.

All three are one stream of lines (see lines): read from a store or a file, written to a file or a store. `kinds`
lists what is carried beside users and what is left of erased ones.
"""
