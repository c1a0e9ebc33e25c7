//! Directories inside a sandbox, as a user of the command line writes them.
//!
//! `exec`, `shell` and `cp` begin in the same directory, so that `cp f ID:` and `exec ID cat f` agree. The
//! compatible exec route of the API keeps its own default, `~/workspace`.

/// Home directory of the sandbox's user.
const HOME: &str = "/home/sandbox";
/// Home directory of root of a sandbox.
const ROOT_HOME: &str = "/root";
/// Where the app's files are.
const APP: &str = "/home/sandbox/workspace/app";

/// Returns the absolute directory that `given` names: itself, beneath the home of `user` when it begins with
/// `~`, otherwise beneath the app directory, which is also the default.
pub(super) fn inside(given: Option<&str>, user: Option<&str>) -> String {
    let home = if user.is_some_and(|user| matches!(user, "root" | "0")) { ROOT_HOME } else { HOME };
    match given {
        None | Some("") | Some(".") => APP.to_owned(),
        Some("~") => home.to_owned(),
        Some(path) if path.starts_with('/') => path.to_owned(),
        Some(path) => match path.strip_prefix("~/") {
            Some(rest) => format!("{home}/{rest}"),
            None => format!("{APP}/{path}"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_where_a_user_expects_them() {
        let check = |given, user, expected: &str| assert_eq!(inside(given, user), expected, "{given:?}");
        check(None, None, APP);
        check(None, Some("root"), APP);
        check(Some("."), None, APP);
        check(Some("src"), None, "/home/sandbox/workspace/app/src");
        check(Some("../data"), None, "/home/sandbox/workspace/app/../data");
        check(Some("~"), None, "/home/sandbox");
        check(Some("~"), Some("root"), "/root");
        check(Some("~/workspace"), None, "/home/sandbox/workspace");
        check(Some("~other"), None, "/home/sandbox/workspace/app/~other");
        check(Some("/tmp"), None, "/tmp");
    }
}
