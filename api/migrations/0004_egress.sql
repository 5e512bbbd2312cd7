-- How much of what a cell's way out carried is recorded, as `cpu_us` of its time.
ALTER TABLE cells ADD COLUMN egress_bytes INTEGER NOT NULL DEFAULT 0;
