"""Live providers, one file each; third parties add theirs by an entry point of the group `samvad.live_providers`."""
