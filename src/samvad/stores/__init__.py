"""Where conversations are kept: one module an engine, all behind the `Store` protocol of `base`."""
