-- Times are milliseconds since 1970, sizes bytes.
CREATE TABLE sandboxes (
    id TEXT PRIMARY KEY,
    status TEXT NOT NULL,
    error_message TEXT,
    ports TEXT NOT NULL,
    env TEXT NOT NULL,
    template TEXT,
    visibility TEXT NOT NULL,
    idle_policy TEXT NOT NULL,
    memory_max INTEGER NOT NULL,
    memory_high INTEGER NOT NULL,
    pids_max INTEGER NOT NULL,
    nofile INTEGER NOT NULL,
    external_user_id TEXT,
    external_project_id TEXT,
    external_workspace_id TEXT,
    app_id TEXT,
    git_repo_url TEXT,
    git_branch TEXT,
    address_index INTEGER,
    init_pid INTEGER,
    init_start_ticks INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_active_at INTEGER NOT NULL,
    stopped_at INTEGER,
    keepalive_until INTEGER
) STRICT, WITHOUT ROWID;

-- Two sandboxes never have one address.
CREATE UNIQUE INDEX sandboxes_address ON sandboxes (address_index) WHERE address_index IS NOT NULL;

-- Workspaces without a sandbox: kept for their owner, or being purged.
CREATE TABLE retired (
    id TEXT PRIMARY KEY,
    purging INTEGER NOT NULL,
    external_user_id TEXT,
    external_project_id TEXT,
    external_workspace_id TEXT
) STRICT, WITHOUT ROWID;
