"""The HTTP face of the service: one module a resource, one table of routes, errors as problem+json (RFC 9457)."""
