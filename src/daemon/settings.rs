//! Reading the settings from everywhere.

use crate::config::{Config, ConfigError, Sources};

/// Reads the settings from everywhere.
pub(super) fn read_config(flags: &[(String, String)]) -> Result<Config, ConfigError> {
    let env = std::env::vars_os()
        .filter_map(|(n, v)| Some((n.into_string().ok()?, v.into_string().ok()?)))
        .collect();
    let env = crate::config::with_env_file(env)?;
    let sources: Sources = crate::config::collect(flags, &env, Some(&crate::config::default_file()))?;
    Config::parse(&sources)
}
