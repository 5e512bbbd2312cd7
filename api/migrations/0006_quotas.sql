-- Bytes to and from the network of everything that a tenant ever ran; of what was before, what is still recorded.
ALTER TABLE tenants ADD COLUMN egress_bytes INTEGER NOT NULL DEFAULT 0;
UPDATE tenants SET egress_bytes =
    coalesce((SELECT min(sum(bytes), 9000000000000000000) FROM records WHERE tenant = tenants.id AND kind = 'egress'), 0);

DROP TRIGGER records_are_spent;
CREATE TRIGGER records_are_spent AFTER INSERT ON records
BEGIN
    UPDATE tenants SET
        spent_picos = min(spent_picos + NEW.cost_picos, 9000000000000000000),
        egress_bytes = min(egress_bytes + iif(NEW.kind = 'egress', NEW.bytes, 0), 9000000000000000000)
    WHERE id = NEW.tenant;
END;
