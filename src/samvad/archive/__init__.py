"""Everything known of one user as one archive: a ZIP of JSON and Markdown, made for the person and for other stores.

`making` writes it piece by piece from a store that is in use, `checking` reads one of which nothing is believed yet.
"""
