"""Samvad in other frameworks, one file a framework; each needs that framework installed."""
