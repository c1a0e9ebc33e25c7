-- Further limits; NULL: as much swap as memory, no limit of the disk.
ALTER TABLE sandboxes ADD COLUMN swap_max INTEGER;
ALTER TABLE sandboxes ADD COLUMN oom_group INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sandboxes ADD COLUMN cpu_weight INTEGER NOT NULL DEFAULT 100;
ALTER TABLE sandboxes ADD COLUMN io_weight INTEGER NOT NULL DEFAULT 100;
ALTER TABLE sandboxes ADD COLUMN io_read_bps INTEGER;
ALTER TABLE sandboxes ADD COLUMN io_write_bps INTEGER;
ALTER TABLE sandboxes ADD COLUMN io_read_iops INTEGER;
ALTER TABLE sandboxes ADD COLUMN io_write_iops INTEGER;
