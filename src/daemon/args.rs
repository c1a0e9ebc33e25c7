//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Runs many people's code on one Linux machine: sandboxes that start in milliseconds, sleep when
/// nobody uses them, and wake at the next request.
#[derive(Debug, Parser)]
#[command(name = "sandboxd", version, after_help = AFTER_HELP)]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<Command>,
    /// Reads settings from this file [default: /etc/sandboxd/config.toml, if there]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<String>,
    /// Sets one setting, for example `--set data_dir=/srv/sandboxd`; wins over file and environment
    #[arg(long = "set", global = true, value_name = "NAME=VALUE", value_parser = name_and_value)]
    set: Vec<(String, String)>,
    /// Refuses to serve where sandboxes would be isolated less than they can be; `sandboxd check` says where
    #[arg(long, global = true)]
    require_isolation: bool,
    /// Refuses to start when the environment has a SANDBOXD_ name that is no setting
    #[arg(long, global = true)]
    strict_config: bool,
}

const AFTER_HELP: &str = "Every setting can be given in the file, as an environment variable (SANDBOXD_<NAME>), or by --set.\n\
`sandboxd check-config` prints them all with their values.\n\n\
Exit codes: 0 ended as asked; 1 `check` or `health` found a fault; 64 wrong usage;\n\
69 something needed is missing (rootfs, port, lock, a record that can be used, for `health` the server);\n\
70 internal error; 75 try again later (disk full or failing, another program holds the database); 77 no permission (not root, no cgroup); 78 wrong configuration; 79 isolation is weaker than require_isolation allows.";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serves the API and the previews (the default)
    Serve,
    /// Runs `serve` as a child and starts it again when it dies; the first process of the image
    Supervise,
    /// Names every kernel feature that is found or missing, what that costs, and how to get it
    Check,
    /// Checks the settings and prints them with where each came from
    CheckConfig,
    /// Asks a running server whether it is well
    Health,
    /// Copies the record of all sandboxes, also while a server runs; their files are not part of it
    Backup {
        /// Where to; replaced if it is there
        file: PathBuf,
    },
    /// Puts a copy in the place of the record, which is kept beside it; the server must not run
    Restore {
        /// A copy that `backup` made
        file: PathBuf,
    },
    /// The process that launches containers; started by `serve`
    #[command(name = "__launcher", hide = true)]
    Launcher {
        #[arg(long)]
        init: PathBuf,
        #[arg(long)]
        writable: Vec<PathBuf>,
    },
}

impl Args {
    /// The settings that were given here, by name.
    pub(super) fn settings(&self) -> Vec<(String, String)> {
        let file = self.config.iter().map(|file| ("config".to_owned(), file.clone()));
        let demand = self.require_isolation.then(|| ("require_isolation".to_owned(), "true".to_owned()));
        let strict = self.strict_config.then(|| ("strict_config".to_owned(), "true".to_owned()));
        file.chain(self.set.iter().cloned()).chain(demand).chain(strict).collect()
    }
}

fn name_and_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("it has the form NAME=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_is_a_setting_and_wins() {
        let line = ["sandboxd", "serve", "--set", "require_isolation=false", "--require-isolation"];
        let settings = Args::try_parse_from(line).unwrap().settings();
        assert_eq!(settings.last(), Some(&("require_isolation".to_owned(), "true".to_owned())));
    }
}
