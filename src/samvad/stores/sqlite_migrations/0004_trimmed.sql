-- The last seq that was trimmed: the user's history begins behind it.
ALTER TABLE users ADD COLUMN trimmed INTEGER NOT NULL DEFAULT 0;
