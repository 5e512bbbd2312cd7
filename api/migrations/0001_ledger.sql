-- Times are microseconds since 1970, money is pico-dollars, ids are their 26 characters.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Keys are random 256 bits; only their SHA-256 is kept.
CREATE TABLE keys (
    digest     BLOB PRIMARY KEY,
    tenant     TEXT NOT NULL,
    name       TEXT NOT NULL,
    created_us INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    seq          INTEGER PRIMARY KEY,
    id           TEXT NOT NULL UNIQUE,
    tenant       TEXT NOT NULL,
    status       TEXT NOT NULL,
    close_reason TEXT,
    created_us   INTEGER NOT NULL,
    expires_us   INTEGER NOT NULL,
    -- The same moment on the clock that the warden goes by; means something only during the boot of `boot_id`.
    expires_boot_us INTEGER NOT NULL,
    boot_id      TEXT NOT NULL,
    ended_us     INTEGER,
    -- 1 once it may own cells or files: only then does the warden's death concern it.
    used         INTEGER NOT NULL,
    metadata     TEXT NOT NULL,
    terms        TEXT NOT NULL,
    walls        TEXT
) STRICT;
CREATE INDEX sessions_of_tenant ON sessions (tenant);
CREATE INDEX sessions_not_closed ON sessions (seq) WHERE ended_us IS NULL;
CREATE INDEX sessions_ended ON sessions (ended_us) WHERE ended_us IS NOT NULL;

CREATE TABLE executions (
    seq        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    session_id TEXT NOT NULL,
    status     TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    ended_us   INTEGER,
    -- What was asked for, without the code.
    place      TEXT NOT NULL,
    report     TEXT,
    -- Kept for a shorter time than the rest.
    output     TEXT
) STRICT;
CREATE INDEX executions_of_session ON executions (session_id);
CREATE INDEX executions_open ON executions (session_id) WHERE ended_us IS NULL;
CREATE INDEX executions_with_output ON executions (ended_us) WHERE output IS NOT NULL;

-- How much of a cell's counter is recorded. A cell that ended keeps its row, so that hearing of it again is harmless.
CREATE TABLE cells (
    id         TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    place      TEXT,
    cpu_us     INTEGER NOT NULL,
    ended_us   INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX cells_of_session ON cells (session_id);

CREATE TABLE records (
    seq           INTEGER PRIMARY KEY,
    -- The execution's id, or that of the cell whose rest this is: recording twice is recording once.
    id            TEXT NOT NULL UNIQUE,
    tenant        TEXT NOT NULL,
    session_id    TEXT NOT NULL,
    kind          TEXT NOT NULL,
    execution_id  TEXT,
    cell_id       TEXT,
    from_us       INTEGER NOT NULL,
    to_us         INTEGER NOT NULL,
    wall_us       INTEGER NOT NULL,
    cpu_us        INTEGER NOT NULL,
    memory_mib_ms INTEGER NOT NULL,
    bytes         INTEGER NOT NULL,
    price_version TEXT NOT NULL,
    cost_picos    INTEGER NOT NULL,
    estimated     INTEGER NOT NULL
) STRICT;
CREATE INDEX records_of_session ON records (session_id);
CREATE INDEX records_by_time ON records (tenant, to_us);

CREATE TABLE remembered (
    tenant     TEXT NOT NULL,
    route      TEXT NOT NULL,
    key        TEXT NOT NULL,
    hash       BLOB NOT NULL,
    subject    TEXT NOT NULL,
    -- Of a session: as it was answered. Of an execution: NULL, its row is the answer.
    answer     TEXT,
    created_us INTEGER NOT NULL,
    PRIMARY KEY (tenant, route, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX remembered_by_time ON remembered (created_us);
CREATE INDEX remembered_by_subject ON remembered (subject);
