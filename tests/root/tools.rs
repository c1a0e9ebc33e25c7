//! Programs that people bring along, under the profile of a sandbox: each does something real, by the system calls
//! that it is known for.

use serde_json::json;

use super::Test;
use crate::support::server::Server;

pub(crate) const TESTS: &[Test] = &[
    ("tools::node_runs_threads_children_and_a_server", node),
    ("tools::python_runs_processes_threads_and_a_server", python),
    ("tools::git_clones_packs_and_merges", git),
    ("tools::go_compiles_and_runs_goroutines", go),
    ("tools::java_serves_from_virtual_threads", java),
    ("tools::bun_serves_spawns_and_stores", bun),
    ("tools::deno_serves_and_spawns", deno),
    ("tools::gdb_and_strace_look_into_their_children", debuggers),
    ("tools::postgres_initialises_and_answers", postgres),
    ("tools::redis_answers_and_forks_to_save", redis),
    ("tools::chromium_renders_without_its_own_sandbox", chromium),
    ("tools::chromium_has_its_own_sandbox_where_namespaces_are_allowed", chromium_nested),
    ("tools::chromium_has_its_own_sandbox_in_gvisor", chromium_gvisor),
];

fn with_tools() -> Server {
    Server::start(&[("SANDBOXD_ROOTFS", &std::env::var("SANDBOXD_TEST_TOOLS").unwrap())])
}

/// Runs a script in a sandbox whose root file system has the tools.
fn run(script: &str) -> String {
    let server = with_tools();
    let id = server.create(json!({ "limits": { "memory_max": "2G" } }));
    server.sh(&id, &format!("set -e; cd /tmp\n{script}"))
}

fn node() {
    let printed = run(r#"cat > a.js <<'X'
const { Worker, isMainThread, parentPort } = require('worker_threads');
if (!isMainThread) { parentPort.postMessage(new Int32Array(new SharedArrayBuffer(8)).length); return; }
const { spawn } = require('child_process'), http = require('http'), fs = require('fs');
new Worker(__filename).on('message', n => {
  fs.watch('/tmp', () => {}).close();
  const s = http.createServer((q, r) => spawn('echo', ['child']).stdout.pipe(r)).listen(0, async () => {
    console.log(n, (await (await fetch(`http://localhost:${s.address().port}/`)).text()).trim());
    process.exit();
  });
});
X
node a.js"#);
    assert_eq!(printed, "2 child\n");
}

fn python() {
    let printed = run(r#"cat > a.py <<'X'
import asyncio, multiprocessing, multiprocessing.shared_memory, threading
def square(n): return n * n
async def serve():
    async def answer(r, w): w.write((await r.readline()).upper()); w.close()
    s = await asyncio.start_server(answer, 'localhost', 0)
    r, w = await asyncio.open_connection('localhost', s.sockets[0].getsockname()[1])
    w.write(b'hello\n')
    return (await r.read()).decode().strip()
if __name__ == '__main__':
    lock, shared = multiprocessing.Lock(), multiprocessing.shared_memory.SharedMemory(create=True, size=4096)
    shared.unlink()
    for how in ('fork', 'spawn', 'forkserver'):
        with multiprocessing.get_context(how).Pool(2) as pool: print(sum(pool.map(square, range(10))))
    t = threading.Thread(target=lambda: print(asyncio.run(serve()))); t.start(); t.join()
X
python3 a.py"#);
    assert_eq!(printed, "285\n285\n285\nHELLO\n");
}

fn git() {
    let printed = run(
        r#"export GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q -b main one; cd one; for i in $(seq 20); do echo $i > $i; git add $i; git commit -q -m $i; done
git checkout -q -b side HEAD~5; echo x > x; git add x; git commit -q -m x; git checkout -q main; git merge -q -m merged side
git gc -q --aggressive; git fsck --no-progress; cd ..; git clone -q file:///tmp/one two; git -C two worktree add -q ../three
git -C three rev-list --count HEAD"#,
    );
    assert_eq!(printed, "22\n");
}

fn go() {
    let printed = run(r#"cat > main.go <<'X'
package main

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"sync"
)

func main() {
	listener, err := net.Listen("tcp", "localhost:0")
	if err != nil { panic(err) }
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil { return }
			go func() { line, _ := bufio.NewReader(c).ReadString('\n'); c.Write([]byte("go " + line)); c.Close() }()
		}
	}()
	var all sync.WaitGroup
	for range 200 {
		all.Add(1)
		go func() {
			defer all.Done()
			c, err := net.Dial("tcp", listener.Addr().String())
			if err != nil { panic(err) }
			c.Write([]byte("on\n"))
			if line, _ := bufio.NewReader(c).ReadString('\n'); line != "go on\n" { panic(line) }
		}()
	}
	all.Wait()
	out, err := exec.Command("echo", "child").Output()
	if err != nil { panic(err) }
	os.Stdout.Write(out)
}
X
go run main.go"#);
    assert_eq!(printed, "child\n");
}

fn java() {
    let printed = run(r#"cat > A.java <<'X'
import com.sun.net.httpserver.HttpServer;
import java.net.*;
import java.net.http.*;
import java.util.concurrent.Executors;
public class A {
  public static void main(String[] none) throws Exception {
    var server = HttpServer.create(new InetSocketAddress("localhost", 0), 0);
    server.createContext("/", e -> {
      var out = new ProcessBuilder("echo", "child").start().getInputStream().readAllBytes();
      e.sendResponseHeaders(200, out.length); e.getResponseBody().write(out); e.close();
    });
    server.setExecutor(Executors.newVirtualThreadPerTaskExecutor()); server.start();
    var uri = URI.create("http://localhost:" + server.getAddress().getPort() + "/");
    System.out.print(HttpClient.newHttpClient().send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.ofString()).body());
    System.gc(); System.exit(0);
  }
}
X
java A.java"#);
    assert_eq!(printed, "child\n");
}

fn bun() {
    let printed = run(r#"cat > a.ts <<'X'
import { Database } from "bun:sqlite";
const server = Bun.serve({ port: 0, hostname: "localhost", fetch: () => new Response(Bun.spawn(["echo", "child"]).stdout) });
console.log((await (await fetch(`http://localhost:${server.port}/`)).text()).trim());
console.log(new Database("/tmp/a.db").query("select 6 * 7 as a").get().a);
await Bun.write("/tmp/copy", Bun.file("/tmp/a.ts"));
process.exit();
X
bun a.ts"#);
    assert_eq!(printed, "child\n42\n");
}

fn deno() {
    let printed = run(r#"cat > a.ts <<'X'
const child = () => new Deno.Command("echo", { args: ["child"] }).output();
const server = Deno.serve({ port: 0, hostname: "localhost", onListen() {} }, async () => new Response((await child()).stdout));
console.log((await (await fetch(`http://localhost:${server.addr.port}/`)).text()).trim());
await server.shutdown();
X
deno run --allow-net --allow-run a.ts"#);
    assert_eq!(printed, "child\n");
}

fn debuggers() {
    let printed = run(r#"cat > a.c <<'X'
int depth(int n) { if (!n) *(volatile int *)0 = 1; return depth(n - 1) + 1; }
int main(void) { return depth(2); }
X
gcc -g -O0 -o a a.c
gdb -batch -ex run -ex bt ./a 2>&1 | grep -c '^#.*in depth (n='
gdb -batch -ex 'break depth if n == 1' -ex run -ex 'print n' ./a 2>&1 | grep '^\$1'
sleep 60 & gdb -batch -p $! -ex bt 2>&1 | grep -c nanosleep; kill $!
strace -f -o log -e trace=execve bash -c '/bin/true; /bin/echo done'
grep -c execve log
strace -c -o log true; grep -c total log"#);
    let lines: Vec<_> = printed.lines().collect();
    assert!(lines[0] == "3" && lines[1] == "$1 = 1" && lines[2] != "0", "{printed}");
    assert_eq!(lines[3..], ["done", "3", "1"], "{printed}");
}

fn postgres() {
    let printed = run(r#"export PATH=$PATH:/usr/lib/postgresql/17/bin
initdb -D db -A trust > /dev/null
pg_ctl -D db -o "-k /tmp -c listen_addresses=localhost -c huge_pages=try" -l log -w start > /dev/null || { cat log; exit 1; }
psql -qAt -h localhost postgres <<'X'
create table t (a int primary key);
insert into t select generate_series(1, 20000);
set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0; set parallel_tuple_cost = 0; set min_parallel_table_scan_size = 0;
select sum(a) from t;
listen x; checkpoint; vacuum t;
X
pg_ctl -D db -m fast -w stop > /dev/null; ! grep -E 'FATAL|PANIC|not permitted' log"#);
    assert_eq!(printed, "200010000\n");
}

fn redis() {
    let printed = run(
        r#"mkdir d; redis-server --port 7777 --daemonize yes --logfile /tmp/log --dir d --appendonly yes > /dev/null
until redis-cli -p 7777 ping 2> /dev/null | grep -q PONG; do sleep 0.05; done
redis-cli -p 7777 set key value; redis-cli -p 7777 get key
redis-cli -p 7777 bgsave > /dev/null
until redis-cli -p 7777 info persistence | grep -q rdb_bgsave_in_progress:0; do sleep 0.05; done
redis-cli -p 7777 info persistence | grep -o 'rdb_last_bgsave_status:ok'
redis-cli -p 7777 shutdown; ls d"#,
    );
    assert_eq!(printed, "OK\nvalue\nrdb_last_bgsave_status:ok\nappendonlydir\ndump.rdb\n");
}

const BROWSER: &str = include_str!("chromium.py");
const PAGE: &str = r"<p id=x></p><script>new Worker(URL.createObjectURL(new Blob(['postMessage(6 * 7)']))).onmessage = e => document.getElementById('x').textContent = e.data;</script>";

/// What a browser shows of a page and says of its own sandbox, and its exit code.
fn browse(server: &Server, id: &str, options: &str) -> (String, i64) {
    for (name, text) in [("browser.py", BROWSER), ("a.html", PAGE)] {
        assert_eq!(server.put(id, name, text.as_bytes()).status, 200);
    }
    server.exec(id, &format!("python3 app/browser.py file://$PWD/app/a.html {options}"))
}

const SANDBOXED: &str =
    "42\nLayer 1 Sandbox=Namespace\nPID namespaces=Yes\nNetwork namespaces=Yes\nSeccomp-BPF sandbox=Yes\n";

/// Its own sandbox is built of user namespaces, which are refused here; `oci/README.md` says why, and this is what it
/// looks like.
fn chromium() {
    let server = with_tools();
    let id = server.create(json!({ "limits": { "memory_max": "2G" } }));
    assert_eq!(browse(&server, &id, ""), ("No usable sandbox\n".to_owned(), 1));
    let (printed, code) = browse(&server, &id, "--no-sandbox");
    assert!(code == 0 && printed.starts_with("42\nLayer 1 Sandbox=None\n"), "{printed}");
}

fn chromium_nested() {
    let server = with_tools();
    let id = server.create(json!({ "nested_namespaces": true, "limits": { "memory_max": "2G" } }));
    assert_eq!(browse(&server, &id, ""), (SANDBOXED.to_owned(), 0));
}

/// There every sandbox may: the namespaces are those of gVisor's kernel.
fn chromium_gvisor() {
    let server = with_tools();
    let id = server.create(json!({ "isolation": "gvisor", "limits": { "memory_max": "2G" } }));
    assert_eq!(browse(&server, &id, ""), (SANDBOXED.to_owned(), 0));
}
