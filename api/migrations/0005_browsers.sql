-- How long a browser was its session's: able to run, and frozen. Of records of kind `browser`.
ALTER TABLE records ADD COLUMN browser_active_us INTEGER NOT NULL DEFAULT 0;
ALTER TABLE records ADD COLUMN browser_standby_us INTEGER NOT NULL DEFAULT 0;
