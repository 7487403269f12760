-- One log of everything. seq is the watermark, the write token and the version of profiles; it is never reused.
-- moved_from and moved_seq: the anonymous visitor who did it and the merge that made it the user's, so that the past
-- can be rebuilt and the visitor erased. A merge's own row carries the visitor in moved_from too.
CREATE TABLE log (
    seq             INTEGER PRIMARY KEY AUTOINCREMENT,
    kind            INTEGER NOT NULL, -- 0 event, 1 upsert, 2 delete, 3 merge, 4 erasure
    received_ms     INTEGER NOT NULL,
    user_key        TEXT,             -- event: whose; merge: the user
    event_id        TEXT,
    event_type      TEXT,
    item_id         TEXT,             -- event, delete
    value           REAL,
    watched_seconds REAL,
    time_ms         INTEGER,
    surface         TEXT,
    session_id      TEXT,
    slate_id        TEXT,
    position        INTEGER,
    query           TEXT,
    payload         TEXT,             -- upsert: the item as JSON; erasure: key hashes in hex
    moved_seq       INTEGER,
    moved_from      TEXT
) STRICT;
CREATE INDEX log_of_user ON log (user_key, time_ms, event_id) WHERE user_key IS NOT NULL;
CREATE INDEX log_moved ON log (moved_from) WHERE moved_from IS NOT NULL;

-- Deduplication: the first 16 bytes of SHA-256 of the event id. Outlives erasure, so a resend brings nothing back.
CREATE TABLE event_ids (
    hash        BLOB PRIMARY KEY,
    received_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX event_ids_by_age ON event_ids (received_ms);

CREATE TABLE items (
    id      TEXT PRIMARY KEY,
    seq     INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    json    TEXT NOT NULL -- empty once deleted
) STRICT, WITHOUT ROWID;

CREATE TABLE users (
    id         TEXT PRIMARY KEY,
    updated_ms INTEGER NOT NULL,
    json       TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Where events of a merged anonymous visitor go: the newest row counts, older ones say what was before.
CREATE TABLE aliases (
    anonymous_key TEXT NOT NULL,
    seq           INTEGER NOT NULL,
    user_key      TEXT NOT NULL,
    PRIMARY KEY (anonymous_key, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX aliases_of_user ON aliases (user_key);

CREATE TABLE tombstones (
    key_hash BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    PRIMARY KEY (seq, key_hash)
) STRICT, WITHOUT ROWID;

CREATE TABLE slates (
    slate_id     TEXT PRIMARY KEY,
    user_key     TEXT,
    now_ms       INTEGER NOT NULL,
    json         TEXT NOT NULL,
    columns_hash INTEGER,
    row_items    TEXT, -- JSON list
    row_features BLOB  -- f32, little-endian, row-major
) STRICT;
CREATE INDEX slates_by_time ON slates (now_ms, slate_id);
CREATE INDEX slates_of_user ON slates (user_key) WHERE user_key IS NOT NULL;

CREATE TABLE bundles (
    version    TEXT PRIMARY KEY,
    created_ms INTEGER NOT NULL,
    parent     TEXT NOT NULL,
    location   TEXT NOT NULL,
    manifest   TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- A stack: the serving bundle is the newest row that was not rolled back.
CREATE TABLE activations (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    version        TEXT NOT NULL,
    activated_ms   INTEGER NOT NULL,
    rolled_back_ms INTEGER
) STRICT;
