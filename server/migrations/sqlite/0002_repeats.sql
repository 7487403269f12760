-- Answers that repeat a logged slate, many to a row: which slate, when, under which id. Whose they are only the slate
-- says: with it erased, they name nobody.
CREATE TABLE repeats (
    id       INTEGER PRIMARY KEY,
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    entries  BLOB NOT NULL -- for each: length and bytes of its slate id, of the repeated one's, moment (i64, little-endian)
) STRICT;
CREATE INDEX repeats_by_time ON repeats (last_ms);
