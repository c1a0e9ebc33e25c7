//! An outside world: a network namespace that the host has a cable to, and that answers at every address.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::eventually;

/// The port at which a world's server listens, at every address.
pub(crate) const WEB: u16 = 8000;

/// A world; it goes with the value.
pub(crate) struct World {
    holder: Child,
    server: Option<Child>,
    link: String,
    network: String,
}

impl World {
    /// Makes a world behind a link of this name; the host has the first address of a /24 there, and the world the
    /// second, its gateway, and the seventy-seventh.
    pub(crate) fn make(link: &str, network: &str) -> Self {
        let holder = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().unwrap();
        let mut world = Self { holder, server: None, link: link.to_owned(), network: network.to_owned() };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let theirs = format!("/proc/{}/ns/net", world.holder.id());
        eventually("the world has a namespace", Duration::from_secs(5), || {
            std::fs::read_link(&theirs).is_ok_and(|ns| ns != own)
        });
        let pid = world.holder.id().to_string();
        run(&["ip", "link", "add", link, "type", "veth", "peer", "name", "w0", "netns", &pid]);
        run(&["ip", "address", "add", &format!("{network}.1/24"), "dev", link]);
        run(&["ip", "link", "set", link, "up"]);
        for own in [2, 77] {
            world.inside(&["ip", "address", "add", &format!("{network}.{own}/24"), "dev", "w0"]);
        }
        for link in ["lo", "w0"] {
            world.inside(&["ip", "link", "set", link, "up"]);
        }
        // Every other address is its own too.
        world.inside(&["ip", "route", "add", "local", "0.0.0.0/0", "dev", "lo"]);
        world.server = Some(world.start(&["python3", "-m", "http.server", &WEB.to_string()]));
        eventually("the world's server listens", Duration::from_secs(20), || {
            world.connects(&format!("{network}.2"), WEB)
        });
        world
    }

    /// Sends the host there with everything.
    pub(crate) fn be_default(self) -> Self {
        run(&["ip", "route", "add", "default", "via", &format!("{}.2", self.network)]);
        self
    }

    /// Runs a program in the world, which has to succeed.
    pub(crate) fn inside(&self, words: &[&str]) {
        let pid = self.holder.id().to_string();
        run(&[&["nsenter", "--net", "--target", &pid], words].concat());
    }

    /// Whether a connection from the world succeeds.
    pub(crate) fn connects(&self, host: &str, port: u16) -> bool {
        let script = format!("import socket; socket.create_connection(('{host}', {port}), 1)");
        self.start(&["python3", "-c", &script]).wait().unwrap().success()
    }

    fn start(&self, words: &[&str]) -> Child {
        let pid = self.holder.id().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &pid]).args(words).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in self.server.iter_mut().chain([&mut self.holder]) {
            let _ended: std::io::Result<()> = child.kill();
            let _ended: std::io::Result<std::process::ExitStatus> = child.wait();
        }
        // With the namespace's last process the kernel takes the cable away in its own time.
        let _gone = Command::new("ip").args(["link", "delete", &self.link]).stderr(Stdio::null()).status();
    }
}

/// Runs a program that has to succeed.
pub(crate) fn run(words: &[&str]) {
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{words:?}");
}
