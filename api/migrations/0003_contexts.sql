-- Contexts that a client prepared, for as long as their session lives. Others follow from executions and cells.
CREATE TABLE contexts (
    session_id TEXT NOT NULL,
    place      TEXT NOT NULL,
    defaults   TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (session_id, place)
) STRICT, WITHOUT ROWID;
