-- When a sandbox is frozen and then stopped, in seconds. Without `sleep_after` it is as the instance says;
-- without `sleep_then_stop_after` it is never stopped.
ALTER TABLE sandboxes ADD COLUMN sleep_after INTEGER;
ALTER TABLE sandboxes ADD COLUMN sleep_then_stop_after INTEGER;
