-- Long outputs, in the order in which they were stored: a tenant may keep so many bytes of them, and no more. A database
-- beside the ledger; when it changes, it is another one, by another name: what it holds is kept for a day.
CREATE TABLE IF NOT EXISTS outputs (
    seq          INTEGER PRIMARY KEY,
    tenant       TEXT NOT NULL,
    execution_id TEXT NOT NULL UNIQUE,
    ended_us     INTEGER NOT NULL,
    -- Of what follows.
    bytes        INTEGER NOT NULL,
    packed       BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS outputs_of_tenant ON outputs (tenant, seq, bytes);
CREATE INDEX IF NOT EXISTS outputs_by_time ON outputs (ended_us);
