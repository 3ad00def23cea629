"""The web pages, as plain files: no build, and no request to another host."""
