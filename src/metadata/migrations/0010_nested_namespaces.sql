-- Whether its programs may make namespaces of their own.
ALTER TABLE sandboxes ADD COLUMN nested_namespaces INTEGER NOT NULL DEFAULT 0;
