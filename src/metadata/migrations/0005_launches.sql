-- What a launch is called on the host. Until now it had the name of its sandbox.
ALTER TABLE sandboxes ADD COLUMN launch TEXT;
UPDATE sandboxes SET launch = lower(id) WHERE init_pid IS NOT NULL OR status = 'error';
