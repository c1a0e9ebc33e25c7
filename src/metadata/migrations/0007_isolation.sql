-- What stands between a sandbox and the host.
ALTER TABLE sandboxes ADD COLUMN isolation TEXT NOT NULL DEFAULT 'container';
