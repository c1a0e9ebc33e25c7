-- Which host name an app is shown behind its preview: `preview` (its own) or `upstream` (localhost).
ALTER TABLE sandboxes ADD COLUMN host_header TEXT NOT NULL DEFAULT 'preview';
