//! Trees as archives: whole round trips, and archives that an enemy has made.

use std::io::Write as _;
use std::time::Duration;

use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::root::Test;
use crate::support::eventually;
use crate::support::http::{self, Answer};
use crate::support::server::{API, Server};

pub(crate) const TESTS: &[Test] = &[
    ("files::trees_go_out_and_in_again_in_every_format", round_trips),
    ("files::a_refused_archive_leaves_nothing", refused),
    ("files::bombs_are_refused_at_their_limits", bombs),
    ("files::an_archive_that_breaks_off_leaves_nothing", broken_off),
];

fn get(server: &Server, id: &str, query: &str) -> Answer {
    // By HTTP/1.0 a body that breaks off cannot be told from its end.
    let head = format!(
        "GET /v1/sandboxes/{id}/{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nConnection: close\r\n\r\n",
        server.key()
    );
    let mut answer = http::raw(API, head.as_bytes());
    if answer.status == 200 {
        answer.body = unchunk(&answer.body);
    }
    answer
}

fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").expect("the body is whole");
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return whole;
        }
        whole.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}

fn put(server: &Server, id: &str, query: &str, archive: &[u8]) -> Answer {
    server.api_bytes("PUT", &format!("/v1/sandboxes/{id}/files/archive?{query}"), archive)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// One entry of a tar archive, exactly as told; its name and link need not be sane.
fn entry(kind: EntryType, name: &[u8], link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_mtime(1_600_000_000);
    header.set_size(content.len() as u64);
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn file(name: &str, content: &[u8]) -> Vec<u8> {
    entry(EntryType::Regular, name.as_bytes(), b"", content)
}

fn tar(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

fn zip(entries: &[(&str, u32, &[u8])]) -> Vec<u8> {
    let mut archive = rawzip::ZipArchiveWriter::new(Vec::new());
    for (name, mode, content) in entries {
        let path = rawzip::path::EntryPath::verbatim(name.as_bytes());
        let builder = archive.new_file(path).unix_permissions(*mode);
        let builder = builder.compression_method(rawzip::CompressionMethod::DEFLATE);
        let (mut entry, config) = builder.start().unwrap();
        let mut writer =
            config.wrap(flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::best()));
        writer.write_all(content).unwrap();
        let (encoder, written) = writer.finish().unwrap();
        encoder.finish().unwrap();
        entry.finish(written).unwrap();
    }
    archive.finish().unwrap()
}

fn round_trips() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let long = "n".repeat(200);
    server.sh(
        &id,
        &format!(
            "cd app; mkdir -p tree/empty tree/{long}/deeper tree/node_modules; head -c 3000000 /dev/urandom > tree/big; echo hi > tree/{long}/deeper/{long}; \
             chmod 755 tree/big; touch -d @1600000000 tree/big; ln -s /usr/bin/python3 tree/link; ln -s {long}{long}{long} tree/longlink; ln tree/big tree/same; \
             echo x > \"$(printf 'tree/\\303\\244 \\n\\377')\"; : > tree/nothing; echo y > tree/node_modules/y; mkfifo tree/pipe; find tree -type f -exec touch -d @1600000000 {{}} +"
        ),
    );
    let sums = "find . -type f -printf '%m %T@ ' -exec md5sum {} \\; | sort; find . -printf '%y %u %p %l\\n' | grep -av pipe | sort";
    let before = server.sh(&id, &format!("cd app/tree; {sums}"));
    server.api("POST", &format!("/v1/sandboxes/{id}/stop"), Value::Null);
    let mut archives = Vec::new();
    for format in ["tar", "tar.gz", "zip"] {
        let archive = get(&server, &id, &format!("files/archive?path=tree&format={format}"));
        assert_eq!(archive.status, 200, "{}", archive.text());
        let disposition = archive.header("content-disposition").unwrap();
        assert_eq!(disposition, format!("attachment; filename=\"tree.{format}\""));
        let unpacked = put(&server, &id, &format!("path=in/{format}/new&format={format}"), &archive.body);
        assert_eq!(unpacked.status, 200, "{format}: {}", unpacked.text());
        let expected = json!({ "path": format!("in/{format}/new"), "entries": 12, "bytes": 6_000_007 });
        assert_eq!(unpacked.json(), expected, "{format}");
        archives.push((format, archive.body));
    }
    let export = get(&server, &id, "export");
    assert_eq!(server.status(&id), "stopped", "a transfer has woken it");
    for format in ["tar", "tar.gz", "zip"] {
        let after = server.sh(&id, &format!("cd app/in/{format}/new; {sums}"));
        assert_eq!(after, before, "{format}");
    }
    // What others have packed is unpacked, and what is packed others can unpack.
    for (format, archive) in &archives {
        assert_eq!(
            put(&server, &id, "path=x&format=tar", &tar(&[file(&format!("a.{format}"), archive)])).status,
            200
        );
    }
    assert_eq!(server.put(&id, "x/export.zip", &export.body).status, 200);
    let theirs = server.sh(
        &id,
        &format!(
            "cd app/x; for f in tar tar.gz; do mkdir $f; tar -C $f -xf a.$f; (cd $f; {sums}); done | md5sum; \
             (cd ../tree; {sums}; {sums}) | md5sum; python3 -m zipfile -l export.zip | grep -c 'tree/\\(big\\|node_modules\\)'; python3 -m zipfile -t a.zip; \
             tar -C ../tree --format=pax --exclude=./pipe -czf pax.tgz .; tar -C ../tree --format=gnu --exclude=./pipe -cf gnu.tar .; (cd ../tree/{long}; python3 -m zipfile -c ../../x/py.zip deeper)"
        ),
    );
    let lines: Vec<_> = theirs.lines().collect();
    assert_eq!(lines[0], lines[1], "tar unpacks something else");
    assert_eq!(lines[2..], ["1", "Done testing"], "an export leaves out what listings hide");
    for (name, format) in [("pax.tgz", "tar.gz"), ("gnu.tar", "tar"), ("py.zip", "zip")] {
        let archive =
            server.api("GET", &format!("/v1/sandboxes/{id}/files/content?path=x/{name}"), Value::Null);
        let unpacked = put(&server, &id, &format!("path=theirs/{format}&format={format}"), &archive.body);
        assert_eq!(unpacked.status, 200, "{name}: {}", unpacked.text());
    }
    let theirs = server.sh(&id, &format!("cd app/theirs; for f in tar tar.gz; do (cd $f; {sums}); done | md5sum; (cd ../tree; {sums}; {sums}) | md5sum; cat zip/deeper/{long}"));
    let lines: Vec<_> = theirs.lines().collect();
    assert_eq!((lines[0], lines[2]), (lines[1], "hi"), "tar's own archives are unpacked differently");
}

/// What an archive is called, its format, and itself.
type Case = (&'static str, &'static str, Vec<u8>);

fn link(name: &str, to: &str) -> Vec<u8> {
    entry(EntryType::Symlink, name.as_bytes(), to.as_bytes(), b"")
}

fn hard(name: &str, to: &str) -> Vec<u8> {
    entry(EntryType::Link, name.as_bytes(), to.as_bytes(), b"")
}

fn new() -> Vec<u8> {
    file("old", b"new")
}

/// Archives that begin with a good file and go on with something that would lead out or be in the way.
fn hostile_tars(outer: &str) -> Vec<Case> {
    vec![
        ("absolute", "tar", tar(&[new(), file("/tmp/x", b"x")])),
        ("upwards", "tar", tar(&[new(), file("a/../../x", b"x")])),
        ("through a link of its own", "tar", tar(&[new(), link("l", outer), file("l/x", b"x")])),
        ("through a link to the top", "tar", tar(&[new(), link("l", "."), file("l/x", b"x")])),
        ("through a link that is there", "tar", tar(&[new(), file("out/x", b"x")])),
        ("a directory over a link", "tar", tar(&[new(), entry(EntryType::Directory, b"in/", b"", b"")])),
        ("a file over a directory", "tar", tar(&[new(), file("dir", b"x")])),
        ("a directory over a file", "tar", tar(&[new(), file("z/x", b"x")])),
        ("a hard link outside", "tar", tar(&[new(), hard("h", "/etc/passwd")])),
        ("a hard link upwards", "tar", tar(&[new(), hard("h", "../../../../../../etc/passwd")])),
        ("a hard link to a link", "tar", tar(&[new(), link("l", outer), hard("h", "l")])),
        ("a hard link through a link", "tar", tar(&[new(), link("l", "/etc"), hard("h", "l/passwd")])),
        ("a hard link to what is there", "tar", tar(&[new(), hard("h", "z")])),
        ("a device", "tar", tar(&[new(), entry(EntryType::Block, b"d", b"", b"")])),
        ("a character device", "tar", tar(&[new(), entry(EntryType::Char, b"d", b"", b"")])),
        ("a FIFO", "tar", tar(&[new(), entry(EntryType::Fifo, b"p", b"", b"")])),
        ("a file and then a directory", "tar", tar(&[new(), file("a", b"x"), file("a/b", b"x")])),
        ("a directory and then a file", "tar", tar(&[new(), file("a/b", b"x"), file("a", b"x")])),
    ]
}

/// Archives that are not what they should be.
fn hostile_tar_formats(good: &[u8]) -> Vec<Case> {
    let mut damaged = good.to_vec();
    damaged[150] ^= 1;
    let mut sparse = Header::new_gnu();
    sparse.set_entry_type(EntryType::GNUSparse);
    sparse.set_path("sparse").unwrap();
    sparse.set_size(0);
    sparse.set_cksum();
    vec![
        ("sparse", "tar", tar(&[new(), sparse.as_bytes().to_vec()])),
        (
            "pax sparse",
            "tar",
            tar(&[entry(EntryType::XHeader, b"x", b"", b"22 GNU.sparse.major=1\n"), new()]),
        ),
        (
            "pax out",
            "tar",
            tar(&[new(), entry(EntryType::XHeader, b"x", b"", b"18 path=../../out\n"), file("a", b"x")]),
        ),
        ("pax nonsense", "tar", tar(&[entry(EntryType::XHeader, b"x", b"", b"99 path=a\n"), new()])),
        (
            "a long name out",
            "tar",
            tar(&[new(), entry(EntryType::GNULongName, b"x", b"", b"/etc/x\0"), file("a", b"x")]),
        ),
        ("cut short", "tar", good[..600].to_vec()),
        ("without an end", "tar", good[..1024].to_vec()),
        ("followed by another", "tar", good.repeat(2)),
        ("damaged", "tar", damaged),
        ("no archive", "tar", vec![b'x'; 5000]),
        ("no archive", "tar.gz", vec![b'x'; 5000]),
        ("no archive", "zip", vec![b'x'; 5000]),
        ("gzip cut short", "tar.gz", {
            let gz = gzip(good);
            gz[..gz.len() - 9].to_vec()
        }),
    ]
}

fn hostile_zips(outer: &str) -> Vec<Case> {
    vec![
        ("zip upwards", "zip", zip(&[("old", 0o644, b"new"), ("../x", 0o644, b"x")])),
        ("zip absolute", "zip", zip(&[("old", 0o644, b"new"), ("/tmp/x", 0o644, b"x")])),
        (
            "zip through a link",
            "zip",
            zip(&[("old", 0o644, b"new"), ("l", 0o120_777, outer.as_bytes()), ("l/x", 0o644, b"x")]),
        ),
        ("zip with a device", "zip", zip(&[("old", 0o644, b"new"), ("d", 0o060_644, b"")])),
        ("zip cut short", "zip", {
            let z = zip(&[("old", 0o644, &[7; 5000])]);
            z[..z.len() - 30].to_vec()
        }),
        ("zip with a wrong checksum", "zip", {
            let mut z = zip(&[("old", 0o644, b"new")]);
            let at = z.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
            z[at + 16] ^= 1;
            z
        }),
    ]
}

fn refused() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let outside = server.directory.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    server.sh(
        &id,
        &format!(
            "cd app; mkdir -p t/dir; echo old > t/old; echo old > t/z; ln -s {} t/out; ln -s dir t/in",
            outside.display()
        ),
    );
    let state = "cd app/t; find . -printf '%p %y %l %i %u %m\\n' | sort; cat old z";
    let before = server.sh(&id, state);
    let good = tar(&[file("old", b"new")]);
    let cases = hostile_tars(&outside.display().to_string()).into_iter().chain(hostile_tar_formats(&good));
    let cases = cases.chain(hostile_zips(&outside.display().to_string()));
    for (what, format, archive) in cases {
        let answer = put(&server, &id, &format!("path=t&format={format}"), &archive);
        assert!(matches!(answer.status, 400 | 409), "{what}: {} {}", answer.status, answer.text());
        assert_eq!(server.sh(&id, state), before, "{what}");
    }
    // A path that leads out is refused before anything is read; one that is missing is made only for a good one.
    assert_eq!(put(&server, &id, "path=t/out&format=tar", &good).status, 400);
    assert_eq!(put(&server, &id, "path=new/dir&format=tar", &good[..600]).status, 400);
    assert_eq!(server.sh(&id, "ls app"), "t\n");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    eventually("nothing is staged", Duration::from_secs(20), || {
        std::fs::read_dir(server.data().join("staging")).unwrap().count() == 0
    });
    // What may look odd and is good: twice the same file, set-user-id, links out that nobody follows.
    let odd = tar(&[
        new(),
        file("twice", b"1"),
        file("./twice", b"22"),
        odd_suid(),
        link("away", "/etc/passwd"),
        hard("same", "twice"),
    ]);
    let answer = put(&server, &id, "path=t/in&format=tar", &odd);
    assert_eq!((answer.status, &answer.json()["entries"]), (200, &json!(6)), "{}", answer.text());
    assert_eq!(
        server.sh(&id, "cd app/t/dir; cat old twice same; stat -c '%a %U %h' suid twice; readlink away"),
        "new2222755 sandbox 1\n644 sandbox 2\n/etc/passwd\n"
    );
}

fn odd_suid() -> Vec<u8> {
    let mut bytes = file("suid", b"x");
    let mut header = Header::from_byte_slice(&bytes[..512]).clone();
    header.set_mode(0o6755);
    header.set_cksum();
    bytes[..512].copy_from_slice(header.as_bytes());
    bytes
}

/// The header of an extended header of a given size.
fn long(size: u64) -> Vec<u8> {
    sized(&entry(EntryType::XHeader, b"x", b"", b""), size)
}

/// The same header with another size in it.
fn sized(entry: &[u8], size: u64) -> Vec<u8> {
    let mut header = Header::from_byte_slice(&entry[..512]).clone();
    header.set_size(size);
    header.set_cksum();
    [header.as_bytes(), &entry[512..]].concat()
}

fn bombs() {
    let server = Server::start(&[("SANDBOXD_TREE_MAX_ENTRIES", "300"), ("SANDBOXD_TREE_MAX_BYTES", "200M")]);
    let id = server.create(Value::Null);
    let many: Vec<_> = (0..400).map(|n| file(&format!("f{n}"), b"")).collect();
    let zipped: Vec<_> = (0..400).map(|n| format!("f{n}")).collect();
    let zipped: Vec<_> = zipped.iter().map(|n| (n.as_str(), 0o644, b"".as_slice())).collect();
    let liar = sized(&file("liar", b"x"), 1 << 40);
    // One member of zeros, many times: one stream.
    let zeros = gzip(&vec![0; 5_000_000]);
    let big = sized(&file("big", b""), 100_000_000);
    let bomb = [gzip(&big), zeros.repeat(20)].concat();
    let sizes = |size: u32| {
        let mut z = zip(&[("a", 0o644, &[0; 9000])]);
        let at = z.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
        z[at + 24..at + 28].copy_from_slice(&size.to_le_bytes());
        z
    };
    let overlapping = {
        // The second entry of the table of contents is moved onto the bytes of the first.
        let mut z = zip(&[("a", 0o644, &[1; 9000]), ("b", 0o644, &[1; 9000])]);
        let last = z.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
        z[last + 42..last + 46].copy_from_slice(&0_u32.to_le_bytes());
        z
    };
    let extended = entry(EntryType::XHeader, b"x", b"", b"");
    let cases: Vec<(&str, &str, Vec<u8>, u16)> = vec![
        ("too many entries", "tar", tar(&many), 413),
        ("too many entries", "zip", zip(&zipped), 413),
        ("a pax header of a terabyte", "tar", [long(1 << 40), vec![0; 4096]].concat(), 400),
        ("a pax header of a megabyte", "tar", [long(1 << 20), vec![b'x'; 1 << 20]].concat(), 400),
        ("pax headers without end", "tar", tar(&vec![extended; 5000]), 400),
        ("a size that is a lie", "tar", tar(&[liar]), 413),
        ("a gzip bomb", "tar.gz", bomb, 413),
        ("zeros after the end", "tar.gz", gzip(&[tar(&[]), vec![0; 3_000_000]].concat()), 400),
        ("a zip bomb", "zip", sizes(100_000_000), 413),
        ("more bytes than allowed", "zip", sizes(300_000_000), 413),
        ("a zip entry longer than it says", "zip", sizes(8000), 400),
        ("a zip entry shorter than it says", "zip", sizes(10_000), 400),
        ("a zip whose entries share bytes", "zip", overlapping, 400),
        (
            "too deep",
            "tar",
            tar(&[
                file(&"d/".repeat(45), b""),
                entry(EntryType::GNULongName, b"x", b"", "d/".repeat(70).as_bytes()),
                file("a", b""),
            ]),
            400,
        ),
    ];
    for (what, format, archive, status) in cases {
        let before = resident(&server);
        let answer = put(&server, &id, &format!("format={format}"), &archive);
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        let grown = resident(&server).saturating_sub(before);
        assert!(grown < 64 << 20, "{what}: the daemon grew by {grown} bytes");
        assert_eq!(server.sh(&id, "ls -A app"), "", "{what}");
    }
    // The same limits bind what goes out: files with many names, holes, too deep a tree.
    server.sh(&id, "cd app; mkdir holes links deep; truncate -s 300M holes/a; head -c 30M /dev/zero > links/0; for n in $(seq 9); do ln links/0 links/$n; done; d=deep; for i in $(seq 80); do d=$d/d; done; mkdir -p $d");
    for path in ["holes", "links", "deep"] {
        let answer = get(&server, &id, &format!("files/archive?path={path}&format=tar"));
        assert_eq!(answer.status, 413, "{path}");
    }
    eventually("nothing is staged", Duration::from_secs(20), || {
        std::fs::read_dir(server.data().join("staging")).unwrap().count() == 0
    });
}

fn resident(server: &Server) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", server.pid())).unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn broken_off() {
    let server = Server::start(&[]);
    let id = server.create(Value::Null);
    let archive = tar(&[file("a", &vec![7; 3_000_000]), file("b", b"x")]);
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", API)).unwrap();
    let head = format!(
        "PUT /v1/sandboxes/{id}/files/archive?format=tar HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n\r\n",
        server.key(),
        archive.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&archive[..archive.len() - 100]).unwrap();
    let staged = || std::fs::read_dir(server.data().join("staging")).unwrap().count();
    eventually("the archive is being unpacked", Duration::from_secs(20), || staged() == 1);
    drop(stream);
    eventually("nothing is left of it", Duration::from_secs(20), || staged() == 0);
    assert_eq!(server.sh(&id, "ls -A app"), "");
    // A download that nobody reads ends too, and gives its thread back.
    server.sh(&id, "head -c 50M /dev/zero > app/big");
    for _ in 0..20 {
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", API)).unwrap();
        let head = format!(
            "GET /v1/sandboxes/{id}/files/archive HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\r\n",
            server.key()
        );
        stream.write_all(head.as_bytes()).unwrap();
        std::io::Read::read_exact(&mut stream, &mut [0; 100]).unwrap();
    }
    eventually("a tree can be transferred again", Duration::from_secs(20), || {
        get(&server, &id, "files/archive?path=nothing").status == 404
    });
}
