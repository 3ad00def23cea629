"""The steps from an empty database to the newest schema: one SQL file each, never changed once released."""
