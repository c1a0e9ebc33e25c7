//! HUP: the keys are read again, without anybody noticing who has one that stays.
//!
//! All settings are read anew, from the file, the environment, the environment file and the flags. If anything is wrong
//! with them, everything stays as it was. What the keys are made of is used at once; a change of any other setting is
//! named in the log and waits for the next start.

use std::convert::Infallible;

use tokio::signal::unix::Signal;

use super::exit::chain;
use super::{key, settings};
use crate::config::Config;
use edge::api::Auth;

/// What the keys are made of.
const RELOADED: [&str; 5] =
    ["api_tokens", "api_auth_disabled", "min_isolation", "token_min_isolation", "runtime"];

/// Reads the keys again whenever it is told to.
pub(super) struct Reload<'a> {
    pub(super) flags: &'a [(String, String)],
    /// What the daemon was started with.
    pub(super) running: &'a Config,
    pub(super) auth: Auth,
    pub(super) hangup: Signal,
}

impl Reload<'_> {
    /// Waits for HUP, again and again.
    ///
    /// # Cancel safety
    /// Cancel safe: keys are exchanged as a whole.
    pub(super) async fn watch(&mut self) -> Infallible {
        loop {
            match self.hangup.recv().await {
                Some(()) => self.reload(),
                // tokio ends the stream with the runtime only.
                None => std::future::pending().await,
            }
        }
    }

    /// A few small files are read; that does not take long enough to matter to a thread of tokio's.
    fn reload(&self) {
        let read = || {
            let config = settings::read_config(self.flags).map_err(|error| chain(&error))?;
            let key = key::read_again(&self.running.data_dir).map_err(|error| chain(&error))?;
            Ok::<_, String>((config, key))
        };
        let (config, key) = match read() {
            Ok(read) => read,
            Err(error) => {
                tracing::error!(error, "failed to read the keys again; the old ones stay");
                return;
            }
        };
        let (keys, anybody) = key::keys(&config, &key.text);
        let number = keys.len();
        self.auth.replace(&keys, anybody);
        tracing::info!(keys = number, "the keys were read again");
        if config.api_auth_disabled {
            tracing::warn!("authentication is disabled: anyone who can reach the API controls every sandbox");
        }
        let changed = changed(self.running, &config);
        if !changed.is_empty() {
            tracing::warn!(
                settings = changed.join(", "),
                "settings have changed that take effect at the next start"
            );
        }
    }
}

/// The names of settings that differ and are not used before the next start.
fn changed(running: &Config, read: &Config) -> Vec<&'static str> {
    let both = running.described.iter().zip(&read.described);
    let differ = both.filter(|((name, before, _), (_, now, _))| before != now && !RELOADED.contains(name));
    differ.map(|((name, ..), _)| *name).collect()
}
