//! `sandboxctl cp`, both ways.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use serde_json::Value;

use super::super::Test;
use super::{Ran, command, finish, run, run_with};
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("cli::trees_are_copied_both_ways", trees),
    ("cli::files_are_copied_both_ways", files),
    ("cli::what_a_tenant_plants_is_not_followed", planted),
];

/// A tree with everything that can be copied.
fn plant(directory: &Path) {
    let bytes: Vec<u8> = (0..300_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    std::fs::create_dir_all(directory.join("deep/er")).unwrap();
    std::fs::create_dir(directory.join("empty")).unwrap();
    std::fs::write(directory.join("deep/bytes"), &bytes).unwrap();
    std::fs::write(directory.join("none"), b"").unwrap();
    std::fs::write(directory.join("deep/er/with blank \u{e4}\u{20ac}"), b"name").unwrap();
    std::fs::write(directory.join("deep").join("n".repeat(200)), b"long").unwrap();
    std::fs::write(directory.join("run"), b"#!/bin/sh\necho ran\n").unwrap();
    let mode = |name: &str, mode| {
        std::fs::set_permissions(directory.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("run", 0o755);
    mode("none", 0o600);
    mode("deep/er", 0o750);
    symlink("deep/bytes", directory.join("link")).unwrap();
    symlink("../run", directory.join("deep/up")).unwrap();
}

/// A tree as lines: kind, mode, name, content or target.
fn listed(directory: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut stack = vec![directory.to_owned()];
    while let Some(path) = stack.pop() {
        for entry in std::fs::read_dir(path).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let name = entry.path().strip_prefix(directory).unwrap().display().to_string();
            let mode = metadata.permissions().mode() & 0o7777;
            lines.push(if metadata.is_symlink() {
                format!("l {name} {}", std::fs::read_link(entry.path()).unwrap().display())
            } else if metadata.is_dir() {
                stack.push(entry.path());
                format!("d {mode:o} {name}")
            } else {
                let content = std::fs::read(entry.path()).unwrap();
                let sum =
                    content.iter().fold(0_u64, |sum, b| sum.wrapping_mul(31).wrapping_add(u64::from(*b)));
                format!("f {mode:o} {} {name} {} {sum}", metadata.mtime(), content.len())
            });
        }
    }
    lines.sort();
    lines
}

fn copy(server: &Server, directory: &Path, from: &str, to: &str) -> Ran {
    finish(command(server, &["cp", from, to]).current_dir(directory), b"")
}

fn trees() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    plant(&here.join("tree"));
    let expected = listed(&here.join("tree"));
    let ok = |from: &str, to: &str| {
        let ran = copy(&server, here, from, to);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{from} {to}");
    };
    // To a name of its own, into a directory, and its content alone.
    ok("tree", &format!("{id}:one"));
    ok("tree/", &format!("{id}:into/"));
    ok("tree/.", &format!("{id}:~/content"));
    assert_eq!(
        server.sh(
            &id,
            "cd app; stat -c %U one/deep; ./one/run; cat into/tree/link | wc -c; ls ~/content | wc -l"
        ),
        "sandbox\nran\n1200000\n5\n"
    );
    // And back, from a sandbox that sleeps and goes on sleeping.
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    ok(&format!("{id}:one"), "back");
    ok(&format!("{id}:into/tree"), "back");
    ok(&format!("{id}:/home/sandbox/content/."), "content");
    ok(&format!("{id}:"), "app");
    assert_eq!(server.status(&id), "stopped", "a copy has woken it");
    assert_eq!(listed(&here.join("back/tree")), expected);
    assert_eq!(listed(&here.join("content")), expected);
    assert_eq!(listed(&here.join("app/one")), expected);
    std::fs::remove_dir_all(here.join("back/tree")).unwrap();
    assert_eq!(listed(&here.join("back")), expected);
    // Over what is there.
    std::fs::write(here.join("tree/none"), b"more").unwrap();
    ok("tree/.", &format!("{id}:one"));
    ok(&format!("{id}:one/."), "back");
    assert_eq!(listed(&here.join("back")), listed(&here.join("tree")));
}

fn files() {
    let server = Server::start(&[("SANDBOXD_FILES_MAX_BYTES", "1M")]);
    let id = server.create(Value::Null);
    let here = tempfile::tempdir().unwrap();
    let here = here.path();
    plant(here);
    let copy = |from: &str, to: &str| copy(&server, here, from, to);
    let ok = |from: &str, to: &str| {
        let ran = copy(from, to);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{from} {to}");
    };
    ok("run", &format!("{id}:"));
    ok("run", &format!("{id}:new/deep/name"));
    ok("link", &format!("{id}:followed"));
    assert_eq!(
        server.sh(&id, "cd app; stat -c '%a %U %F' run new/deep/name followed"),
        "755 sandbox regular file\n755 sandbox regular file\n644 sandbox regular file\n"
    );
    ok(&format!("{id}:new/deep/name"), "there");
    ok(&format!("{id}:followed"), "deep/er");
    assert_eq!(std::fs::metadata(here.join("there")).unwrap().permissions().mode() & 0o7777, 0o755);
    assert_eq!(
        std::fs::read(here.join("deep/er/followed")).unwrap(),
        std::fs::read(here.join("deep/bytes")).unwrap()
    );
    let ran = run_with(&server, &["cp", "-", &format!("{id}:typed")], b"from a pipe \xff");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(run(&server, &["cp", &format!("{id}:typed"), "-"]).stdout, b"from a pipe \xff");
    let ran = finish(command(&server, &["--json", "cp", "run", &format!("{id}:")]).current_dir(here), b"");
    let json: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((json["entries"].as_u64(), json["bytes"].as_u64()), (Some(1), Some(19)));
    // What cannot be copied says so, and what to do.
    let check = |from: &str, to: &str, code: i32, words: &str| {
        let ran = copy(from, to);
        assert_eq!(ran.code, Some(code), "{from} {to}: {}", ran.stderr);
        assert!(ran.stderr.contains(words), "{from} {to}: {}", ran.stderr);
    };
    check("missing", &format!("{id}:"), 66, "missing");
    check(&format!("{id}:missing"), ".", 66, "missing");
    check(&format!("{id}:/etc/passwd"), ".", 64, "only the workspace");
    check(&format!("{id}:../x"), ".", 64, "`..`");
    check("run", "there", 64, "ID:PATH");
    check("deep", &format!("{id}:run"), 64, "not a directory");
    check("run", "01ARZ3NDEKTSV4RRFFQ69G5FAV:", 66, "sandboxctl ls");
    let ran = run_with(&server, &["cp", "-", &format!("{id}:large")], &vec![0; 3_000_000]);
    assert!(ran.code == Some(64) && ran.stderr.contains("413"), "{ran:?}");
}

fn planted() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let here = tempfile::tempdir().unwrap();
    std::fs::write(here.path().join("canary"), "alive").unwrap();
    server.sh(&id, "cd app; ln -s /etc/passwd abs; ln -s ../../../canary up; ln -s f in; echo x > f; mkfifo p; ln -s . self");
    let ran = copy(&server, here.path(), &format!("{id}:"), "to");
    assert_eq!(ran.code, Some(65), "{}", ran.stderr);
    for name in ["abs", "up"] {
        assert!(ran.stderr.contains(&format!("left out: {name}, a link")), "{}", ran.stderr);
        assert!(here.path().join("to").join(name).symlink_metadata().is_err(), "{name}");
    }
    assert_eq!(std::fs::read_to_string(here.path().join("to/in")).unwrap(), "x\n");
    assert_eq!(std::fs::read_to_string(here.path().join("canary")).unwrap(), "alive");
}
