-- How far a shared log of events was taken over, written in the transaction of its events.
CREATE TABLE ingested (
    log       TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next      INTEGER NOT NULL, -- everything before this offset is in the log here
    PRIMARY KEY (log, partition)
) STRICT, WITHOUT ROWID;
