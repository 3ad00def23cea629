-- One row a user: the head of their record. `revision` counts commits within an `epoch`.
CREATE TABLE users (
    user_no            INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant             TEXT NOT NULL,
    user_id            TEXT NOT NULL,
    epoch              INTEGER NOT NULL,
    revision           INTEGER NOT NULL,
    seq                INTEGER NOT NULL,
    preferences        BLOB,
    profile_created_ms INTEGER,
    profile_updated_ms INTEGER,
    UNIQUE (tenant, user_id)
);

CREATE INDEX users_with_profile ON users (tenant) WHERE profile_created_ms IS NOT NULL;

CREATE TABLE states (
    user_no    INTEGER PRIMARY KEY,
    body       BLOB NOT NULL,
    updated_ms INTEGER NOT NULL,
    version    INTEGER NOT NULL
);

CREATE INDEX states_by_update ON states (updated_ms);

CREATE TABLE messages (
    user_no  INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    at_ms    INTEGER NOT NULL,
    given_id TEXT,
    body     BLOB NOT NULL,
    PRIMARY KEY (user_no, seq)
) WITHOUT ROWID;

-- Only ids that callers gave need to be found: one that the server made names its seq.
CREATE UNIQUE INDEX messages_by_given_id ON messages (user_no, given_id) WHERE given_id IS NOT NULL;

CREATE TABLE sessions (
    tenant     TEXT NOT NULL,
    session_id TEXT NOT NULL,
    user_no    INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    active_ms  INTEGER NOT NULL,
    ended_ms   INTEGER,
    body       BLOB NOT NULL,
    PRIMARY KEY (tenant, session_id)
) WITHOUT ROWID;

CREATE INDEX sessions_by_user ON sessions (user_no, active_ms);
CREATE INDEX sessions_open ON sessions (active_ms, user_no) WHERE ended_ms IS NULL;

CREATE TABLE interruptions (
    user_no    INTEGER NOT NULL,
    tenant     TEXT NOT NULL,
    session_id TEXT NOT NULL,
    id         TEXT NOT NULL,
    at_ms      INTEGER NOT NULL,
    body       BLOB NOT NULL,
    PRIMARY KEY (tenant, session_id, id)
) WITHOUT ROWID;

CREATE INDEX interruptions_by_user ON interruptions (user_no);

-- First answers to requests with an Idempotency-Key. `answer` is NULL once the user is erased.
CREATE TABLE receipts (
    key         BLOB PRIMARY KEY,
    fingerprint BLOB NOT NULL,
    at_ms       INTEGER NOT NULL,
    user_hash   BLOB NOT NULL,
    answer      BLOB
) WITHOUT ROWID;

CREATE INDEX receipts_by_age ON receipts (at_ms);
CREATE INDEX receipts_by_user ON receipts (user_hash);

-- What is left of an erased user: a hash of the name, and the epoch that their next life begins with.
CREATE TABLE erasures (
    user_hash BLOB PRIMARY KEY,
    epoch     INTEGER NOT NULL,
    erased_ms INTEGER NOT NULL
) WITHOUT ROWID;

-- The last commit applied of each replica that numbers its commits.
CREATE TABLE applied (
    user_no INTEGER NOT NULL,
    replica TEXT NOT NULL,
    number  INTEGER NOT NULL,
    PRIMARY KEY (user_no, replica)
) WITHOUT ROWID;

CREATE TABLE probe (id INTEGER PRIMARY KEY CHECK (id = 1), at_ms INTEGER NOT NULL);
