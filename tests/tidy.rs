//! The rules of the house that Cargo cannot keep: which manifest names which crate, headers, sizes, marks.

#![expect(clippy::unwrap_used, reason = "test code: a failure is the message")]

mod imports;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Which crate of ours may stand in whose manifest; ARCHITECTURE.md says why. A new arrow needs a decision record.
const MAY_DEPEND: [(&str, &[&str]); 15] = [
    ("sys", &[]),
    ("protocol", &[]),
    ("init", &["protocol", "sys"]),
    ("model", &[]),
    ("telemetry", &[]),
    ("wire", &[]),
    ("client", &[]),
    ("cli", &["client", "model", "sys"]),
    ("metadata", &["model", "sys"]),
    ("storage", &["model", "sys"]),
    ("network", &["model", "sys"]),
    ("engine", &["model", "protocol", "sys"]),
    ("sandbox", &["engine", "metadata", "model", "network", "protocol", "storage", "sys", "telemetry"]),
    ("edge", &["model", "sandbox", "telemetry", "wire"]),
    ("daemon", &["edge", "engine", "metadata", "model", "network", "sandbox", "storage", "sys", "telemetry"]),
];
/// Modules that do not know the rest of their crate.
const APART: [&str; 4] = ["daemon/config", "edge/api", "edge/proxy", "engine/bundle"];
/// What must not reach a program through any crate of ours: dependencies, and features that one of ours is asked for.
const LIGHT: [(&str, &[&str]); 2] = [
    ("cli", &["axum", "libcontainer", "netlink", "oci-spec", "prometheus", "rusqlite"]),
    ("init", &["axum", "clap", "hyper", "libcontainer", "netlink", "rusqlite", "tokio", "tracing"]),
];
/// The rooms of the core, from left to right; a file may use what is in its own room and to the left of it. The last one
/// is the files beside `lib.rs`, which put the rooms together.
const ROOMS: [&str; 7] = ["base", "running", "books", "launch", "life", "serve", "keep"];
/// Rooms that do not use one another although one is to the left of the other.
const ROOMS_APART: (&str, &str) = ("serve", "keep");
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

/// The crate that a file beneath `src` belongs to.
fn crate_of(path: &Path) -> Option<String> {
    let part = path.components().nth(1)?.as_os_str().to_str()?.to_owned();
    (part != "bin").then_some(part)
}

fn manifest(directory: &str) -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory).join("Cargo.toml");
    std::fs::read_to_string(&path).unwrap().parse().unwrap()
}

/// The entries of one table of a manifest.
fn entries<'a>(manifest: &'a toml::Table, name: &str) -> impl Iterator<Item = (&'a String, &'a toml::Value)> {
    manifest.get(name).and_then(toml::Value::as_table).into_iter().flatten()
}

/// Cargo refuses an import whose crate the manifest does not name, and circles; this holds what is named.
#[test]
fn crates_depend_only_on_what_the_table_allows() {
    let table: BTreeMap<_, _> = MAY_DEPEND.into_iter().collect();
    let members = manifest("")["workspace"]["members"].as_array().unwrap().clone();
    let names = members.iter().filter_map(|member| member.as_str()?.strip_prefix("src/").map(str::to_owned));
    assert_eq!(names.clone().count(), table.len(), "the table has as many rows as there are crates");
    for name in names {
        let allowed = table.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the table"));
        let manifest = manifest(&format!("src/{name}"));
        let all = entries(&manifest, "dependencies").chain(entries(&manifest, "dev-dependencies"));
        let ours: BTreeSet<_> =
            all.map(|(dependency, _)| dependency.as_str()).filter(|d| table.contains_key(d)).collect();
        assert_eq!(ours.into_iter().collect::<Vec<_>>(), **allowed, "what {name} depends on");
    }
}

#[test]
fn modules_of_one_crate_stay_apart() {
    let mut wrong = Vec::new();
    for directory in APART {
        let own = directory.split('/').next_back().unwrap();
        for (path, text) in sources(&format!("src/{directory}")) {
            for piece in text.split("crate::").skip(1) {
                let imported: String =
                    piece.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if imported != own {
                    wrong.push(format!("{}: {own} → {imported}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The sources of one crate, with their paths within it.
fn sources_of(name: &str) -> Vec<(PathBuf, String)> {
    let directory = Path::new("src").join(name);
    let within = |(path, text): (PathBuf, String)| (path.strip_prefix(&directory).unwrap().to_owned(), text);
    sources(&format!("src/{name}")).into_iter().map(within).collect()
}

/// Each circle of imports in a crate, as text.
fn circles_in(sources: &[(PathBuf, String)]) -> Vec<String> {
    let files = imports::Crate::read(sources);
    let uses = files.uses();
    let told = |circle: Vec<imports::Place>| {
        let arrow = |place: &imports::Place| {
            let used: Vec<_> =
                uses[place].iter().filter(|p| circle.contains(p)).map(|p| files.path(p)).collect();
            format!("{} uses {}", files.path(place), used.join(", "))
        };
        circle.iter().map(arrow).collect::<Vec<_>>().join("; ")
    };
    imports::circles(&uses).into_iter().map(told).collect()
}

#[test]
fn no_files_of_a_crate_import_one_another_in_a_circle() {
    let mut found = Vec::new();
    for (name, _) in MAY_DEPEND {
        found.extend(circles_in(&sources_of(name)).into_iter().map(|circle| format!("{name}: {circle}")));
    }
    assert!(found.is_empty(), "{} circles:\n{}", found.len(), found.join("\n"));
}

/// Each way in which a file may use another one is found, and nothing else is.
#[test]
fn planted_circles_are_found() {
    let check = |how: &str, files: &[(&str, &str)], is_circle: bool| {
        let files: Vec<_> =
            files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        assert_eq!(!circles_in(&files).is_empty(), is_circle, "{how}");
    };
    let a = ("a.rs", "use crate::b::B; pub struct A(B);");
    check("crate::", &[a, ("b.rs", "use crate::a::A; pub struct B;")], true);
    check("super::", &[a, ("b.rs", "use super::a::A; pub struct B;")], true);
    check("a path in the code", &[a, ("b.rs", "pub struct B; fn f() { crate::a::A::new() }")], true);
    check("a module's name", &[a, ("b.rs", "use super::a; pub struct B; fn f() -> a::A {}")], true);
    check("a group", &[a, ("b.rs", "use super::{c, a::{self, A as X}}; pub struct B;")], true);
    check("a glob", &[a, ("b.rs", "use super::a::*; pub struct B;")], true);
    check(
        "a re-export",
        &[
            ("m/mod.rs", "mod a; mod b; pub use a::A;"),
            ("m/a.rs", "use super::b::B; pub struct A;"),
            ("m/b.rs", "use crate::m::A; pub struct B;"),
        ],
        true,
    );
    check(
        "a re-export of a re-export",
        &[
            ("lib.rs", "mod m; pub use m::A;"),
            ("m.rs", "pub use crate::a::A;"),
            a,
            ("b.rs", "use crate::A; pub struct B;"),
        ],
        true,
    );
    check(
        "methods of a type elsewhere",
        &[
            ("a.rs", "pub struct A; impl A { fn f(&self) { self.g() } }"),
            ("b.rs", "use crate::a::A; impl A { pub fn g(&self) {} }"),
        ],
        true,
    );
    check("an inline module", &[a, ("b.rs", "pub struct B; mod tests { use super::super::a::A; }")], true);
    check("one way only", &[a, ("b.rs", "pub struct B; mod tests { use super::*; }")], false);
    check(
        "re-exports that nobody takes from there",
        &[
            ("m/mod.rs", "mod a; mod b; pub use a::A;"),
            ("m/a.rs", "use super::b::B; pub struct A;"),
            ("m/b.rs", "pub struct B;"),
        ],
        false,
    );
    check(
        "comments and texts",
        &[a, ("b.rs", "// use crate::a::A;\npub struct B; const T: &str = \"crate::a::A\";")],
        false,
    );
}

#[test]
fn rooms_of_the_core_use_only_what_is_to_their_left() {
    let files = imports::Crate::read(&sources_of("sandbox"));
    let room = |place: &imports::Place| match place.as_slice() {
        [room, _, ..] => ROOMS.iter().position(|name| name == room).unwrap(),
        _ => ROOMS.len(),
    };
    let apart =
        [ROOMS_APART.0, ROOMS_APART.1].map(|name| ROOMS.iter().position(|room| *room == name).unwrap());
    let mut wrong = Vec::new();
    for (place, used) in files.uses() {
        for target in used {
            let rooms = [room(&target), room(&place)];
            if rooms[0] > rooms[1] || rooms == apart {
                wrong.push(format!("{} uses {}", files.path(&place), files.path(&target)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let own = |(path, text): (PathBuf, String)| text.contains("impl Supervisor").then_some(path);
    let supervisors: Vec<_> = sources_of("sandbox").into_iter().filter_map(own).collect();
    assert_eq!(supervisors, [Path::new("supervisor.rs")], "the entry point is one file");
}

#[test]
fn light_programs_stay_light() {
    for (program, heavy) in LIGHT {
        let mut found = BTreeSet::new();
        let mut open = vec![program.to_owned()];
        let mut seen = BTreeSet::new();
        while let Some(name) = open.pop() {
            let manifest = manifest(&format!("src/{name}"));
            for (dependency, value) in entries(&manifest, "dependencies") {
                let flag = |key: &str| value.get(key).and_then(toml::Value::as_bool) == Some(true);
                if MAY_DEPEND.iter().any(|(ours, _)| ours == dependency) {
                    let features =
                        value.get("features").and_then(toml::Value::as_array).into_iter().flatten();
                    found.extend(features.filter_map(|feature| feature.as_str().map(str::to_owned)));
                    if seen.insert(dependency.clone()) {
                        open.push(dependency.clone());
                    }
                } else if !flag("optional") {
                    found.insert(dependency.clone());
                }
            }
        }
        assert!(!found.is_empty(), "{program} has dependencies");
        let wrong: Vec<_> = found.iter().filter(|name| heavy.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{program} has come to depend on {wrong:?}");
    }
}

/// Nothing that a client sends becomes part of a command line on the host: there is no shell, and no other program.
#[test]
fn the_server_executes_these_programs_only() {
    let mut found = Vec::new();
    for (path, text) in sources("src") {
        let module = crate_of(&path).unwrap_or_default();
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
        "engine: &config.executable",
        "engine: &runsc.program",
        "engine: program",
        "network: \"iptables\"",
        "network: \"nft\"",
        "network: \"nft\"",
    ];
    assert_eq!(found, expected);
}

#[test]
fn the_kernel_is_spoken_to_in_one_place() {
    for (path, text) in sources("src") {
        let in_sys = crate_of(&path).as_deref() == Some("sys");
        let code: String =
            text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
        for forbidden in ["unsafe {", "libc::", "Command::new"] {
            assert!(in_sys || !code.contains(forbidden), "{} has {forbidden}", path.display());
        }
        let names_libcontainer = code.contains("libcontainer::");
        assert!(
            !names_libcontainer || path.ends_with("engine/launcher.rs"),
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
