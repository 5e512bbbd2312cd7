-- Several tenants. From here on the columns named `tenant` hold a tenant's id; before, there was one, named `default`.

CREATE TABLE tenants (
    seq         INTEGER PRIMARY KEY,
    -- Also the name of the group that its cells share.
    id          TEXT NOT NULL UNIQUE,
    name        TEXT NOT NULL UNIQUE,
    disabled    INTEGER NOT NULL,
    quotas      TEXT NOT NULL,
    -- The cost of every record there ever was; records themselves are kept for a while only.
    spent_picos INTEGER NOT NULL,
    created_us  INTEGER NOT NULL
) STRICT;

-- The group was random from the start; where none was made yet, 100 random bits are enough for an id that is no secret.
INSERT INTO tenants (id, name, disabled, quotas, spent_picos, created_us)
SELECT coalesce((SELECT value FROM meta WHERE key = 'group.default'),
                '0' || substr(lower(hex(randomblob(13))), 1, 25)),
       'default', 0, '{}',
       coalesce((SELECT min(sum(cost_picos), 9000000000000000000) FROM records), 0),
       CAST(strftime('%s', 'now') AS INTEGER) * 1000000;
DROP TABLE meta;

UPDATE sessions SET tenant = (SELECT id FROM tenants);
UPDATE records SET tenant = (SELECT id FROM tenants);
UPDATE remembered SET tenant = (SELECT id FROM tenants);

DROP TABLE keys;
CREATE TABLE keys (
    seq        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    -- Keys are random 256 bits; only their SHA-256 is kept.
    digest     BLOB NOT NULL UNIQUE,
    tenant     TEXT NOT NULL,
    name       TEXT NOT NULL,
    -- 1: the key in the file, which may also administer.
    admin      INTEGER NOT NULL,
    created_us INTEGER NOT NULL,
    revoked_us INTEGER
) STRICT;
CREATE UNIQUE INDEX keys_that_hold ON keys (tenant, name) WHERE revoked_us IS NULL;

-- In the transaction of the record, so that a crash cannot come between. The end of the scale is far beyond any budget.
CREATE TRIGGER records_are_spent AFTER INSERT ON records
BEGIN
    UPDATE tenants SET spent_picos = min(spent_picos + NEW.cost_picos, 9000000000000000000) WHERE id = NEW.tenant;
END;
