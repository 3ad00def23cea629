"""The heart: what can happen to a user, the pure rules of it, and the service that applies them. No HTTP, no SQL."""
