//! Files looked at, made, moved, copied and deleted, in a workspace whose sandbox sleeps.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::root::Test;
use crate::support::eventually;
use crate::support::http::{self, Answer};
use crate::support::server::{API, Server};

pub(crate) const TESTS: &[Test] = &[
    ("files::are_looked_at_made_moved_copied_and_deleted_asleep", edited),
    ("files::edits_lead_nowhere_and_take_odd_files_as_they_are", odd_files),
    ("files::a_download_can_be_resumed_and_names_cannot_break_its_headers", downloads),
    ("files::an_upload_that_breaks_off_leaves_the_old_file", broken_upload),
];

fn post(server: &Server, id: &str, what: &str, body: Value) -> Answer {
    server.api("POST", &format!("/v1/sandboxes/{id}/files/{what}"), body)
}

fn stat(server: &Server, id: &str, path: &str) -> Answer {
    server.api("GET", &format!("/v1/sandboxes/{id}/files/stat?path={path}"), Value::Null)
}

fn delete(server: &Server, id: &str, query: &str) -> u16 {
    server.api("DELETE", &format!("/v1/sandboxes/{id}/files?{query}"), Value::Null).status
}

fn edited() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    server.sh(&id, "cd app; mkdir -p a/b; echo one > a/b/one; chmod 750 a/b/one; ln -s one a/b/link; touch -d @1000000000.5 a/b/one");
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);

    let one = json!({ "path": "a/b/one", "type": "file", "size": 4, "mode": "0750", "mtime": "2001-09-09T01:46:40.500Z" });
    assert_eq!(stat(&server, &id, "a/b/one").json(), one);
    let link = stat(&server, &id, "a/b/link").json();
    assert_eq!((&link["type"], &link["target"]), (&json!("link"), &json!("one")));
    assert_eq!(stat(&server, &id, "").json()["type"], "dir");
    assert_eq!(stat(&server, &id, "nothing").status, 404);
    assert_eq!(stat(&server, &id, "workspace/app/a&base=home").json()["type"], "dir");
    assert_eq!(stat(&server, &id, "a&base=root").status, 400);

    let made = post(&server, &id, "mkdir", json!({ "path": "new/deep/", "mode": "0700" }));
    assert_eq!((made.status, made.json()["mode"].as_str()), (200, Some("0700")), "{}", made.text());
    assert_eq!(post(&server, &id, "mkdir", json!({ "path": "new/deep" })).json()["mode"], "0700");
    assert_eq!(post(&server, &id, "mkdir", json!({ "path": "a/b/one/x" })).status, 400);
    assert_eq!(post(&server, &id, "mkdir", json!({ "path": "x", "extra": 1 })).status, 400);

    assert_eq!(post(&server, &id, "chmod", json!({ "path": "a/b/link", "mode": "0600" })).status, 200);
    assert_eq!(stat(&server, &id, "a/b/one").json()["mode"], "0600", "a link beneath the base is followed");
    assert_eq!(post(&server, &id, "chmod", json!({ "path": "a/b/one", "mode": "4755" })).status, 400);

    let copied = post(&server, &id, "copy", json!({ "from": "a", "to": "copies/of/a" }));
    assert_eq!((copied.status, copied.json()["type"].as_str()), (200, Some("dir")), "{}", copied.text());
    let copy = stat(&server, &id, "copies/of/a/b/one").json();
    assert_eq!((&copy["mode"], &copy["mtime"]), (&json!("0600"), &json!("2001-09-09T01:46:40.500Z")));
    assert_eq!(stat(&server, &id, "copies/of/a/b/link").json()["target"], "one");
    assert_eq!(post(&server, &id, "copy", json!({ "from": "a", "to": "copies/of/a" })).status, 409);
    // Into itself: what is copied is what was there before.
    assert_eq!(post(&server, &id, "copy", json!({ "from": "a", "to": "a/again" })).status, 200);
    assert_eq!(stat(&server, &id, "a/again/again").status, 404);

    assert_eq!(post(&server, &id, "move", json!({ "from": "a", "to": "a/b/inside" })).status, 400);
    assert_eq!(post(&server, &id, "move", json!({ "from": "a/b", "to": "new" })).status, 409);
    let moved = post(&server, &id, "move", json!({ "from": "a/b", "to": "new", "overwrite": true }));
    assert_eq!((moved.status, moved.json()["path"].as_str()), (200, Some("new")), "{}", moved.text());
    assert_eq!((stat(&server, &id, "new/one").status, stat(&server, &id, "new/deep").status), (200, 404));
    assert_eq!(post(&server, &id, "move", json!({ "from": "gone", "to": "x" })).status, 404);

    assert_eq!(delete(&server, &id, "path=new"), 409);
    assert_eq!(delete(&server, &id, "path=new/link"), 204);
    assert_eq!(stat(&server, &id, "new/one").status, 200, "a link is deleted, not what it leads to");
    assert_eq!(delete(&server, &id, "path=new&recursive=true"), 204);
    assert_eq!((delete(&server, &id, "path=new"), delete(&server, &id, "path=")), (404, 400));

    let workspace = server.data().join("workspaces").join(&id);
    let owner = std::fs::metadata(workspace.join("workspace/app/copies/of/a/b/one")).unwrap();
    // As the top of the workspace.
    let top = std::fs::metadata(&workspace).unwrap();
    assert!(top.uid() >= 65_536, "it is a user of the host: {}", top.uid());
    assert_eq!((owner.uid(), owner.gid()), (top.uid(), top.gid()));
    assert_eq!(server.status(&id), "stopped", "using files has woken it");
    eventually("what was deleted and staged is gone", Duration::from_secs(20), || {
        ["trash", "staging"].iter().all(|d| std::fs::read_dir(server.data().join(d)).unwrap().count() == 0)
    });
}

fn odd_files() {
    let server = Server::start(&[("SANDBOXD_TREE_MAX_ENTRIES", "500"), ("SANDBOXD_TREE_MAX_BYTES", "8M")]);
    let id = server.create(Value::Null);
    let outside = server.directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("canary"), "untouched").unwrap();
    let depth = 80;
    server.sh(
        &id,
        &format!(
            "cd app; ln -s {} out; ln -s ../../../../outside rel; mkdir tree; mkfifo tree/pipe; echo x > tree/x; ln tree/x tree/y; \
             truncate -s 1G tree/sparse; python3 -c \"import socket; socket.socket(socket.AF_UNIX).bind('tree/socket')\"; \
             printf a > \"$(printf 'tree/\\377\\nname')\"; mkdir many; (cd many; seq 600 | xargs touch); \
             d=deep; for i in $(seq {depth}); do d=$d/d; done; mkdir -p $d; head -c 9M /dev/zero > big",
            outside.display()
        ),
    );
    for link in ["out", "rel"] {
        let inside = format!("{link}/canary");
        assert_eq!(stat(&server, &id, &inside).status, 400);
        assert_eq!(delete(&server, &id, &format!("path={inside}")), 400);
        assert_eq!(post(&server, &id, "move", json!({ "from": inside, "to": "mine" })).status, 400);
        assert_eq!(
            post(&server, &id, "move", json!({ "from": "big", "to": inside, "overwrite": true })).status,
            400
        );
        assert_eq!(post(&server, &id, "copy", json!({ "from": inside, "to": "mine" })).status, 400);
        assert_eq!(post(&server, &id, "chmod", json!({ "path": inside, "mode": "0777" })).status, 400);
        assert_eq!(post(&server, &id, "chmod", json!({ "path": link, "mode": "0777" })).status, 400);
        assert_eq!(post(&server, &id, "mkdir", json!({ "path": format!("{link}/made") })).status, 400);
    }
    assert_eq!(stat(&server, &id, "tree/pipe").json()["type"], "other");
    assert_eq!(post(&server, &id, "copy", json!({ "from": "tree/pipe", "to": "p" })).status, 400);
    let copied = post(&server, &id, "copy", json!({ "from": "tree", "to": "copy" }));
    assert_eq!(copied.status, 200, "{}", copied.text());
    let listed = server.sh(
        &id,
        "cd app/copy; ls -Ab | wc -l; stat -c %s sparse; test $(stat -c %b sparse) -lt 100; stat -c %h x",
    );
    assert_eq!(listed, "4\n1073741824\n1\n", "FIFO and socket are left out, holes stay holes");
    for from in ["many", "deep", "big"] {
        let refused = post(&server, &id, "copy", json!({ "from": from, "to": "c" }));
        assert_eq!(
            (refused.status, stat(&server, &id, "c").status),
            (413, 404),
            "{from}: {}",
            refused.text()
        );
    }
    // Deep and odd trees are deleted all the same, and so is one that somebody stands in.
    server.sh(&id, "cd app/tree; (sleep 60; ls ../..) >/dev/null 2>&1 & echo");
    for path in ["deep", "tree", "many", "out", "rel"] {
        assert_eq!(delete(&server, &id, &format!("path={path}&recursive=true")), 204, "{path}");
    }
    eventually("what was deleted is removed", Duration::from_secs(20), || {
        std::fs::read_dir(server.data().join("trash")).unwrap().count() == 0
    });
    assert_eq!(std::fs::read_to_string(outside.join("canary")).unwrap(), "untouched");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

fn downloads() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let content: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(server.put(&id, "big", &content).status, 200);
    let key = format!("Bearer {}", server.key());
    let get = |path: &str, headers: &[(&str, &str)]| {
        let headers: Vec<_> =
            [("Authorization", key.as_str())].into_iter().chain(headers.iter().copied()).collect();
        http::request(
            API,
            "localhost",
            "GET",
            &format!("/v1/sandboxes/{id}/files/content?path={path}"),
            &headers,
            b"",
        )
    };
    let whole = get("big", &[]);
    assert!(whole.body == content, "{} of {} bytes", whole.body.len(), content.len());
    let tag = whole.header("etag").unwrap();
    let part = get("big", &[("Range", "bytes=1000001-9000000"), ("If-Range", &tag)]);
    assert_eq!(part.status, 206);
    assert!(part.body == content[1_000_001..=9_000_000]);
    assert_eq!(get("big", &[("If-None-Match", &tag)]).status, 304);
    assert_eq!(get("big", &[("Range", &format!("bytes=0-1{}", ",0-1".repeat(10_000)))]).status, 200);
    assert_eq!(server.put(&id, "big", b"other").status, 200);
    // What is resumed would not fit any more: the whole comes instead.
    assert_eq!(get("big", &[("Range", "bytes=2-3"), ("If-Range", &tag)]).text(), "other");

    server.sh(&id, r#"cd app; echo '<script>' > "$(printf 'x\r\nSet-Cookie: a=b\r\n"é.svg')""#);
    let odd = get("x%0D%0ASet-Cookie:%20a=b%0D%0A%22%C3%A9.svg", &[]);
    assert_eq!((odd.status, odd.text().as_str(), odd.header("set-cookie")), (200, "<script>\n", None));
    let disposition = odd.header("content-disposition").unwrap();
    assert!(disposition.starts_with("attachment; filename=\"x__Set-Cookie"), "{disposition}");
    assert_eq!(odd.header("content-type").as_deref(), Some("application/octet-stream"));
    assert_eq!(odd.header("x-content-type-options").as_deref(), Some("nosniff"));
    assert!(odd.header("content-security-policy").unwrap().contains("sandbox"));
}

fn broken_upload() {
    use std::io::Write as _;
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    assert_eq!(server.put(&id, "f", b"old").status, 200);
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", API)).unwrap();
    let head = format!(
        "PUT /v1/sandboxes/{id}/files?path=f HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: 1000000\r\n\r\n",
        server.key()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b'x'; 990_000]).unwrap();
    let app = server.data().join("workspaces").join(&id).join("workspace/app");
    let temporary = || {
        let names = std::fs::read_dir(&app).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|n| n.to_string_lossy().starts_with(".upload-")).count()
    };
    eventually("the upload has begun", Duration::from_secs(20), || temporary() == 1);
    drop(stream);
    eventually("nothing is left of it", Duration::from_secs(20), || temporary() == 0);
    assert_eq!(std::fs::read_to_string(app.join("f")).unwrap(), "old");
}
