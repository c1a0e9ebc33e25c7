-- What the root file system takes: read_only or overlay.
ALTER TABLE sandboxes ADD COLUMN rootfs TEXT NOT NULL DEFAULT 'read_only';
