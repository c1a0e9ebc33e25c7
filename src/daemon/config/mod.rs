//! The settings: file, environment and command line, read completely before anything is bound or made.
//!
//! A setting has one name in all three: `idle_threshold_seconds` in the file and for `--set`,
//! `SANDBOXD_IDLE_THRESHOLD_SECONDS` in the environment. The later source wins. Everything that is
//! wrong is reported at once.

mod env_file;
mod parse;
mod settings;
mod source;
mod tree;

pub use env_file::with_env_file;
pub use settings::{SETTINGS, Setting};
pub use source::{Sources, collect, default_file};
pub use tree::{Config, ConfigError, Edge, OWN_KEY, Secret, UserNamespaces};

impl Config {
    /// Parses what the sources say.
    ///
    /// # Errors
    /// Every unknown name and every value that is wrong, with where it came from.
    pub fn parse(sources: &Sources) -> Result<Self, ConfigError> {
        parse::parse(sources)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use model::Isolation;

    fn parse(entries: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let env: BTreeMap<String, String> =
            entries.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Config::parse(&collect(&[], &env, None).unwrap())
    }

    #[test]
    fn defaults_are_complete() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.api_addr.to_string(), "127.0.0.1:9090");
        assert_eq!(config.idle_threshold, Duration::from_secs(2100));
        assert_eq!(config.database, PathBuf::from("/var/lib/sandboxd/sandboxd.db"));
        assert_eq!(config.public_http_port, 8080);
        assert_eq!(config.described.len(), SETTINGS.len());
    }

    #[test]
    fn later_sources_win() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(
            &file,
            "idle_threshold_seconds = 10\nstop_grace_seconds = 1\npreview_domain = \"a.org\"\n",
        )
        .unwrap();
        let env = BTreeMap::from([
            ("SANDBOXD_CONFIG".to_owned(), file.display().to_string()),
            ("SANDBOXD_STOP_GRACE_SECONDS".to_owned(), "2".to_owned()),
            ("PREVIEW_DOMAIN".to_owned(), "b.org".to_owned()),
        ]);
        let flags = [("stop_grace_seconds".to_owned(), "3s".to_owned())];
        let config = Config::parse(&collect(&flags, &env, None).unwrap()).unwrap();
        assert_eq!(config.idle_threshold, Duration::from_secs(10));
        assert_eq!(config.stop_grace, Duration::from_secs(3));
        assert_eq!(config.preview_domain, "b.org");
    }

    #[test]
    fn every_problem_is_reported_with_its_place() {
        let error = parse(&[
            ("SANDBOXD_ADDR", "nowhere"),
            ("SANDBOXD_IDLE_THRESHOLD_SECONDS", "-5"),
            ("SANDBOXD_IDLE_TRESHOLD_SECONDS", "5"),
            ("SANDBOXD_STRICT_CONFIG", "true"),
            ("SANDBOXD_API_TOKENS", "ci=short"),
            ("SANDBOXD_MEM_EMERGENCY_PCT", "50"),
            ("SANDBOXD_RUN_DIR", "/dev/shm/run"),
            ("SANDBOXD_RUNTIME", "crun"),
        ])
        .unwrap_err();
        assert_eq!(error.0.len(), 7, "{error}");
        assert!(error.to_string().contains("SANDBOXD_ADDR"));
        assert!(error.to_string().contains("idle_threshold_seconds"), "no suggestion: {error}");
        assert!(!error.to_string().contains("short"), "a secret is shown: {error}");
    }

    #[test]
    fn an_unknown_name_in_the_environment_is_a_warning() {
        let config = parse(&[("SANDBOXD_IDLE_TRESHOLD_SECONDS", "5"), ("SANDBOXD_BIN", "/x")]).unwrap();
        assert_eq!(config.ignored, ["bin"]);
        assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
        assert!(
            config.warnings[0].ends_with("did you mean idle_threshold_seconds?"),
            "{:?}",
            config.warnings
        );
        let file_or_flag = [("idle_treshold_seconds".to_owned(), "5".to_owned())];
        assert!(Config::parse(&collect(&file_or_flag, &BTreeMap::new(), None).unwrap()).is_err());
    }

    #[test]
    fn settings_of_the_former_product_are_accepted() {
        let config = parse(&[("SANDBOXD_NETWORK", "x"), ("SANDBOXD_USERNS", "y")]).unwrap();
        assert_eq!(config.ignored, ["network", "userns"]);
        let tier = |runtime| parse(&[("SANDBOXD_RUNTIME", runtime)]).unwrap().min_isolation;
        assert_eq!((tier(""), tier("runsc")), (Isolation::Container, Isolation::Gvisor));
    }

    #[test]
    fn what_is_set_for_the_command_line_is_not_for_the_server() {
        let config = parse(&[("SANDBOXD_URL", "http://127.0.0.1:9090"), ("SANDBOXD_TOKEN", "x")]).unwrap();
        assert!(config.ignored.is_empty());
        assert!(
            collect(&[("url".to_owned(), "x".to_owned())], &BTreeMap::new(), None)
                .and_then(|sources| Config::parse(&sources))
                .is_err()
        );
    }

    #[test]
    fn a_minimum_belongs_to_a_key() {
        let tokens = ("SANDBOXD_API_TOKENS", "a=0123456789abcdef");
        let minimum = |text| parse(&[tokens, ("SANDBOXD_TOKEN_MIN_ISOLATION", text)]);
        let config = minimum("a=gvisor, api-key=container").unwrap();
        assert_eq!(config.token_min_isolation[0], ("a".to_owned(), Isolation::Gvisor));
        for bad in ["a", "a=strong", "b=gvisor"] {
            assert_eq!(minimum(bad).unwrap_err().0.len(), 1, "{bad}");
        }
        assert!(parse(&[("SANDBOXD_MIN_ISOLATION", "none")]).is_err());
    }

    #[test]
    fn tokens_take_both_forms_and_stay_secret() {
        let config = parse(&[("SANDBOXD_API_TOKENS", "a=0123456789abcdef,b:fedcba9876543210")]).unwrap();
        let names: Vec<_> = config.api_tokens.iter().map(|(n, s)| (n.as_str(), s.reveal())).collect();
        assert_eq!(names, [("a", "0123456789abcdef"), ("b", "fedcba9876543210")]);
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
    }

    #[test]
    fn the_document_lists_every_setting() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let table = settings::table();
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(&path, &table).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap();
        assert_eq!(table, committed, "run the test with UPDATE_SNAPSHOTS=1");
    }

    proptest::proptest! {
        #![proptest_config(proptest::test_runner::Config::with_cases(64))]
        #[test]
        fn any_value_of_any_setting_is_taken_or_complained_of(
            given in proptest::collection::vec((proptest::sample::select(SETTINGS), "\\PC{0,40}|-?[0-9]{1,25}[KMGT]?|[a-z0-9=:,./-]{0,60}"), 0..6),
        ) {
            let flags: Vec<_> = given.iter().map(|(setting, value)| (setting.name.to_owned(), value.clone())).collect();
            match collect(&flags, &BTreeMap::new(), None).and_then(|sources| Config::parse(&sources)) {
                Ok(config) => proptest::prop_assert_eq!(config.described.len(), SETTINGS.len()),
                Err(error) => proptest::prop_assert!(!error.0.is_empty()),
            }
        }
    }
}
