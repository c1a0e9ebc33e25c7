-- The spec of a sandbox becomes one document (`document.rs` tells its fields); columns remain for what changes
-- while it runs, and for what is searched. A text that is not JSON is kept as a string: the reader then names
-- the sandbox, instead of this step failing without a name.
CREATE TABLE sandboxes_next (
    id TEXT PRIMARY KEY,
    spec TEXT NOT NULL,
    status TEXT NOT NULL,
    error_message TEXT,
    address_index INTEGER,
    launch TEXT,
    init_pid INTEGER,
    init_start_ticks INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_active_at INTEGER NOT NULL,
    stopped_at INTEGER,
    keepalive_until INTEGER
) STRICT, WITHOUT ROWID;

INSERT INTO sandboxes_next SELECT
    id,
    json_object(
        'version', 1,
        'ports', json(CASE WHEN json_valid(ports) THEN ports ELSE json_quote(ports) END),
        'env', json(CASE WHEN json_valid(env) THEN env ELSE json_quote(env) END),
        'template', template,
        'visibility', visibility,
        'idle_policy', idle_policy,
        'host_header', host_header,
        'sleep', json(CASE WHEN sleep_after IS NOT NULL THEN json_object(
            'after_secs', sleep_after,
            'then_stop_after_secs', sleep_then_stop_after
        ) END),
        'limits', json_object(
            'memory_max', memory_max,
            'memory_high', memory_high,
            'swap_max', coalesce(swap_max, memory_max),
            'oom_group', json(iif(oom_group, 'true', 'false')),
            'cpu_max_milli', cpu_max,
            'cpu_weight', cpu_weight,
            'io_weight', io_weight,
            'io_read_bps', io_read_bps,
            'io_write_bps', io_write_bps,
            'io_read_iops', io_read_iops,
            'io_write_iops', io_write_iops,
            'pids_max', pids_max,
            'nofile', nofile
        ),
        'external', json_object(
            'user_id', external_user_id,
            'project_id', external_project_id,
            'workspace_id', external_workspace_id
        ),
        'app_id', app_id,
        'git', json(CASE WHEN git_repo_url IS NOT NULL THEN json_object(
            'repo_url', git_repo_url,
            'branch', git_branch
        ) END),
        'isolation', isolation,
        'rootfs', rootfs,
        'nested_namespaces', json(iif(nested_namespaces, 'true', 'false'))
    ),
    status, error_message, address_index, launch, init_pid, init_start_ticks,
    created_at, updated_at, last_active_at, stopped_at, keepalive_until
FROM sandboxes;

DROP TABLE sandboxes;
ALTER TABLE sandboxes_next RENAME TO sandboxes;
-- Two sandboxes never have one address.
CREATE UNIQUE INDEX sandboxes_address ON sandboxes (address_index) WHERE address_index IS NOT NULL;
