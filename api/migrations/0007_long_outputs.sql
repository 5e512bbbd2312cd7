-- Outputs that are long, in the order in which they were stored: a tenant may keep so many bytes of them, and no more.
CREATE TABLE long_outputs (
    seq          INTEGER PRIMARY KEY,
    tenant       TEXT NOT NULL,
    execution_id TEXT NOT NULL UNIQUE,
    ended_us     INTEGER NOT NULL,
    -- As they are stored.
    bytes        INTEGER NOT NULL
) STRICT;
CREATE INDEX long_outputs_of_tenant ON long_outputs (tenant, seq, bytes);
CREATE INDEX long_outputs_by_time ON long_outputs (ended_us);
