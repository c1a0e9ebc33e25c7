//! The rules of the house that a text search can keep: who imports whom, headers, sizes, marks.

#![expect(clippy::unwrap_used, reason = "test code: a failure is the message")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Who may import whom; ARCHITECTURE.md says why. A new arrow needs a decision record.
const MAY_IMPORT: [(&str, &[&str]); 18] = [
    ("model", &[]),
    ("sys", &[]),
    ("telemetry", &[]),
    ("protocol", &[]),
    ("init", &["protocol", "sys"]),
    ("bundle", &["model", "sys"]),
    ("metadata", &["model", "sys"]),
    ("network", &["model", "sys"]),
    ("storage", &["model", "sys"]),
    ("runtime", &["bundle", "model", "protocol", "sys"]),
    (
        "sandbox",
        &["bundle", "metadata", "model", "network", "protocol", "runtime", "storage", "sys", "telemetry"],
    ),
    ("wire", &["model"]),
    ("api", &["model", "sandbox", "telemetry", "wire"]),
    ("proxy", &["model", "sandbox", "telemetry"]),
    ("config", &["model", "network", "sys"]),
    ("client", &["model", "wire"]),
    ("cli", &["client", "model", "sys", "wire"]),
    (
        "daemon",
        &[
            "api",
            "bundle",
            "config",
            "metadata",
            "model",
            "network",
            "proxy",
            "runtime",
            "sandbox",
            "storage",
            "sys",
            "telemetry",
        ],
    ),
];
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 75;

fn sources(directory: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut stack = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.push((path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_owned(), text));
        }
    }
    assert!(!found.is_empty(), "{directory} has no sources");
    found
}

/// The module that a file beneath `src` belongs to.
fn module_of(path: &Path) -> Option<String> {
    let part = path.components().nth(1)?.as_os_str().to_str()?.to_owned();
    (part != "bin" && part != "lib.rs").then_some(part)
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let table: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources("src") {
        let Some(module) = module_of(&path) else { continue };
        let allowed = table.get(module.as_str()).unwrap_or_else(|| panic!("{module} is not in the table"));
        for piece in text.split("crate::").skip(1) {
            let imported: String =
                piece.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            if imported != module
                && table.contains_key(imported.as_str())
                && !allowed.contains(&imported.as_str())
            {
                wrong.push(format!("{}: {module} → {imported}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_cycle() {
    let table: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    fn reaches(table: &BTreeMap<&str, &[&str]>, from: &str, to: &str) -> bool {
        table.get(from).is_some_and(|next| next.iter().any(|n| *n == to || reaches(table, n, to)))
    }
    for (module, _) in MAY_IMPORT {
        assert!(!reaches(&table, module, module), "{module} imports itself in a circle");
    }
}

/// Nothing that a client sends becomes part of a command line on the host: there is no shell, and no other program.
#[test]
fn the_server_executes_these_programs_only() {
    let mut found = Vec::new();
    for (path, text) in sources("src") {
        let module = module_of(&path).unwrap_or_default();
        if !["cli", "init", "sys"].contains(&module.as_str()) {
            let calls = text.split("process::command(").skip(1);
            found.extend(
                calls.map(|call| format!("{module}: {}", call.split(')').next().unwrap_or_default())),
            );
        }
    }
    found.sort_unstable();
    let expected = [
        "daemon: \"cp\"",
        "daemon: program",
        "network: \"iptables\"",
        "network: \"nft\"",
        "network: \"nft\"",
        "runtime: &config.executable",
        "runtime: &runsc.program",
        "runtime: program",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_kernel_is_spoken_to_in_one_place() {
    for (path, text) in sources("src") {
        let in_sys = module_of(&path).as_deref() == Some("sys");
        let code: String =
            text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for forbidden in ["unsafe {", "libc::", "Command::new"] {
            assert!(in_sys || !code.contains(forbidden), "{} has {forbidden}", path.display());
        }
        let names_libcontainer = code.contains("libcontainer::");
        assert!(
            !names_libcontainer || path.ends_with("runtime/launcher.rs"),
            "{} names libcontainer",
            path.display()
        );
    }
}

#[test]
fn files_open_with_a_header_and_stay_small() {
    for (path, text) in ["src", "tests", "benches"].into_iter().flat_map(sources) {
        assert!(text.starts_with("//!"), "{} does not open with //!", path.display());
        assert!(text.lines().count() <= FILE_LINES_MAX, "{} is too long", path.display());
        for mark in ["TODO", "FIXME", "XXX", "HACK", "#[ignore", "todo!(", "unimplemented!(", "dbg!("] {
            let own = path.ends_with("tests/tidy.rs");
            assert!(own || !text.contains(mark), "{} has {mark}", path.display());
        }
        check_functions(&path, &text);
    }
}

/// Functions are found by their indentation, which rustfmt keeps.
fn check_functions(path: &Path, text: &str) {
    let mut open: Option<(usize, usize, String)> = None;
    for (number, line) in text.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if let Some((start, depth, name)) = &open
            && indent == *depth
            && line.trim_end() == format!("{}}}", " ".repeat(*depth))
        {
            let length = number - start;
            assert!(length <= FUNCTION_LINES_MAX, "{}: {name} has {length} lines", path.display());
            open = None;
        }
        let starts = line.contains("fn ")
            && line.contains('(')
            && !line.trim_start().starts_with("//")
            && !line.trim_end().ends_with(';');
        if starts && open.is_none() && !line.trim_end().ends_with('}') {
            open = Some((number, indent, line.trim().to_owned()));
        }
    }
}

#[test]
fn the_project_speaks_of_itself_alone() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut stack: Vec<PathBuf> =
        ["src", "tests", "docs", "oci", "rootfs", "scripts"].iter().map(|d| root.join(d)).collect();
    stack.extend(
        [
            "README.md",
            "ARCHITECTURE.md",
            "SECURITY.md",
            "SPECIFICATION.md",
            "CONTRIBUTING.md",
            "CHANGELOG.md",
            "Dockerfile",
        ]
        .iter()
        .map(|f| root.join(f)),
    );
    while let Some(path) = stack.pop() {
        if path.is_dir() {
            stack.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            continue;
        }
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        for place in ["/home/", "/Users/"] {
            let foreign = text.split(place).skip(1).any(|rest| !rest.starts_with("sandbox"));
            assert!(
                path.ends_with("tests/tidy.rs") || !foreign,
                "{} names a path of somebody's machine",
                path.display()
            );
        }
    }
}
