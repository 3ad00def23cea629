"""Who is asking: API keys, tokens that a back end mints, JWTs of OIDC issuers and of Firebase."""
