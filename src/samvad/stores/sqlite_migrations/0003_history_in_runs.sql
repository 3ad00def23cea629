-- What was said lately, in the order in which it was said, whoever said it: one row for what one commit appended.
-- A group of commits fills a page or two, however many users it is of. `body` is the messages' JSON, a line each.
-- The newest row of a user is ahead of their row in `users`.
CREATE TABLE recent (
    place      INTEGER PRIMARY KEY,
    user_no    INTEGER NOT NULL,
    revision   INTEGER NOT NULL,
    first_seq  INTEGER NOT NULL,
    last_seq   INTEGER NOT NULL,
    updated_ms INTEGER NOT NULL,
    body       BLOB NOT NULL
);

CREATE INDEX recent_by_user ON recent (user_no);

-- What was said before, user by user: runs of messages that follow each other. `body` as above.
CREATE TABLE history (
    user_no   INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq  INTEGER NOT NULL,
    body      BLOB NOT NULL,
    PRIMARY KEY (user_no, first_seq)
) WITHOUT ROWID;

-- Only ids that callers gave need to be found: one that the server made names its seq.
CREATE TABLE given_ids (
    user_no INTEGER NOT NULL,
    id      TEXT NOT NULL,
    seq     INTEGER NOT NULL,
    PRIMARY KEY (user_no, id)
) WITHOUT ROWID;

-- A blank behind the JSON tells an id that was given though it looks as if made here, at this place.
INSERT INTO history
    SELECT user_no, seq, seq, CASE WHEN given_id GLOB 'm' || seq || '-*' THEN CAST(body || x'20' AS BLOB) ELSE body END
    FROM messages ORDER BY user_no, seq;
INSERT INTO given_ids
    SELECT user_no, given_id, seq FROM messages WHERE given_id IS NOT NULL ORDER BY user_no, given_id;
DROP TABLE messages;
