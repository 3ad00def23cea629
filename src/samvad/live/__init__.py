"""Live conversation: turns spoken or typed through a provider, persisted as they were heard."""
