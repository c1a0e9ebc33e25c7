//! The loop of PID 1.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::SocketFlags;

use super::app::{HOME, Supervised};
use super::connection::Connection;
use super::processes::Processes;
use protocol::{CONTROL_DESCRIPTOR, Reply, Request, VERSION};
use sys::identity;
use sys::process::{self, Exit, Reaped};
use sys::signal::{self, Signals};
use sys::socket;

/// The most connections at once; the daemon needs two, and one more for each question.
const CONNECTIONS_MAX: usize = 64;

/// Runs PID 1 until it is told to end.
///
/// # Errors
/// What is missing at the start: the control socket, or the kernel's refusal of a signalfd.
pub fn run() -> io::Result<()> {
    // First of all, before any other process exists that could look at this one.
    process::set_not_dumpable()?;
    identity::put_root_aside()?;
    // Whatever the server was started by may ignore some, as nohup does; a tenant's programs find them as anywhere else.
    signal::restore_defaults();
    let signals = Signals::block(&[Signal::SIGCHLD])?;
    let listener = socket::inherited(CONTROL_DESCRIPTOR)?;
    rustix::io::ioctl_fionbio(&listener, true)?;
    let is_relayed = socket::is_datagram(&listener)?;
    let mut server = Server {
        signals,
        listener,
        is_relayed,
        connections: Vec::new(),
        processes: Processes::new(is_relayed),
        has_exits: false,
        app: Supervised::default(),
        identity: None,
        ends_at: None,
    };
    while !server.turn()? {}
    Ok(())
}

#[derive(Debug)]
struct Server {
    signals: Signals,
    listener: OwnedFd,
    /// Whether connections arrive as descriptors, and no descriptor can be sent on them.
    is_relayed: bool,
    connections: Vec<Connection>,
    processes: Processes,
    /// Whether a process of a client's has ended in this turn.
    has_exits: bool,
    app: Supervised,
    /// The environment that was just given; taken by the end of the same turn.
    identity: Option<Vec<String>>,
    /// Set once the sandbox is to end: when what is left is killed.
    ends_at: Option<Instant>,
}

impl Server {
    /// Waits for something to happen and deals with it; true once the sandbox is over.
    fn turn(&mut self) -> io::Result<bool> {
        let ready = self.wait()?;
        // Before a connection comes or goes, or a pipe does: the flags are in the order of the wait.
        let of_app = 2 + self.connections.len();
        let of_terminals = of_app + self.app.pipes().count();
        self.app.pump(ready.get(of_app..of_terminals).unwrap_or_default());
        self.processes.relay(ready.get(of_terminals..).unwrap_or_default());
        while self.signals.take()?.is_some() {}
        if ready.get(1).copied().unwrap_or_default() {
            self.accept();
        }
        // From the back, so that a connection that is dropped does not shift those still to come.
        for index in (0..self.connections.len()).rev() {
            if ready.get(index + 2).copied().unwrap_or_default() && self.serve(index).is_err() {
                self.connections.swap_remove(index);
            }
        }
        let now = Instant::now();
        self.app.tick(now, self.ends_at.is_some());
        self.processes.tick(now);
        // Always, and after everything that may have started a process: one pending SIGCHLD may stand
        // for many children, and one that came while a process was being started is lost.
        let has_children = self.reap()?;
        self.tell_exits();
        self.tell_changes();
        if let Some(env) = self.identity.take() {
            // Returns only if it fails; then there is no sandbox.
            return Err(process::execute_again(&env, self.listener.as_fd(), CONTROL_DESCRIPTOR));
        }
        // Whatever still lives is killed by the kernel when PID 1 ends — man 7 pid_namespaces.
        Ok(self.ends_at.is_some_and(|end| !has_children || now >= end))
    }

    /// Polls; one flag per descriptor: signals, listener, then the connections and the app's pipes in order.
    fn wait(&self) -> io::Result<Vec<bool>> {
        let mut polled = vec![
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), PollFlags::IN),
        ];
        polled.extend(self.connections.iter().map(|c| PollFd::from_borrowed_fd(c.as_fd(), PollFlags::IN)));
        polled.extend(self.app.pipes().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        polled.extend(self.processes.relayed().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        let deadline =
            [self.app.deadline(), self.processes.deadline(), self.ends_at].into_iter().flatten().min();
        let timeout =
            deadline.map(|d| d.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let timeout = timeout.and_then(|t| Timespec::try_from(t).ok());
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(polled.iter().map(|p| !p.revents().is_empty()).collect())
    }

    /// Reaps everything that has ended; false when no child is left.
    fn reap(&mut self) -> io::Result<bool> {
        loop {
            match process::reap()? {
                Reaped::Child { pid, exit } => self.ended(pid, exit),
                Reaped::Nothing => return Ok(true),
                Reaped::NoChildren => return Ok(false),
            }
        }
    }

    fn ended(&mut self, pid: i32, exit: Exit) {
        if self.processes.ended(pid, exit) {
            self.has_exits = true;
            return;
        }
        self.app.ended(pid, exit, Instant::now());
    }

    fn accept(&mut self) {
        while let Ok(sockets) = self.arrivals() {
            // Beyond the limit a connection is closed at once, which the daemon reports as overload.
            let room = CONNECTIONS_MAX.saturating_sub(self.connections.len());
            self.connections.extend(sockets.into_iter().take(room).map(Connection::new));
        }
    }

    /// Takes a connection that waits.
    fn arrivals(&self) -> io::Result<Vec<OwnedFd>> {
        if !self.is_relayed {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            return Ok(vec![rustix::net::accept_with(&self.listener, flags)?]);
        }
        let (_, sockets) = socket::receive(&self.listener, &mut [0; 8])?;
        sockets.iter().try_for_each(|socket| rustix::io::ioctl_fionbio(socket, true))?;
        Ok(sockets)
    }

    fn serve(&mut self, index: usize) -> io::Result<()> {
        let requests = match self.connections.get_mut(index) {
            Some(connection) => connection.receive()?,
            None => return Ok(()),
        };
        for (request, descriptors) in requests {
            self.answer(index, request, descriptors)?;
        }
        Ok(())
    }

    fn answer(&mut self, index: usize, request: Request, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
        match request {
            Request::Hello => connection.reply(&Reply::Hello { version: VERSION }),
            Request::Claim { env } => {
                // The workspace was mounted over the directory that this process is in.
                if let Err(error) = process::enter_directory(HOME) {
                    return connection.reply(&Reply::Failed { errno: error.raw_os_error().unwrap_or(0) });
                }
                self.identity = Some(env);
                connection.reply(&Reply::Claimed)
            }
            Request::Attach => self.attach(index),
            Request::Journal => {
                self.processes.keep_journal(descriptors);
                Ok(())
            }
            Request::Spawn(spawn) => {
                let (reply, riding) = self.processes.spawn(&spawn, descriptors);
                connection.reply_with(&reply, &riding)
            }
            Request::Take { key } => {
                let (reply, riding) = self.processes.take(key);
                connection.reply_with(&reply, &riding)
            }
            Request::CloseInput { key } => {
                self.processes.close_input(key);
                Ok(())
            }
            Request::Resize { key, columns, rows } => {
                self.processes.resize(key, columns, rows);
                Ok(())
            }
            Request::Signal { key, signal, target } => {
                self.processes.signal(key, signal, target, Instant::now());
                Ok(())
            }
            Request::Forget { key } => {
                self.processes.forget(key);
                Ok(())
            }
            Request::Supervise { app } => {
                connection.watches_app = true;
                self.app.replace(app, Instant::now());
                Ok(())
            }
            Request::Terminate { grace_ms } => {
                self.ends_at = Some(Instant::now() + Duration::from_millis(grace_ms));
                process::kill_all(Signal::SIGTERM)?;
                // A stopped process acts on TERM only once it is continued.
                process::kill_all(Signal::SIGCONT)
            }
        }
    }

    /// From now on this connection is the one about processes; an older one is of a daemon that is gone.
    fn attach(&mut self, index: usize) -> io::Result<()> {
        for connection in &mut self.connections {
            connection.is_attached = false;
        }
        let Some(connection) = self.connections.get_mut(index) else { return Ok(()) };
        connection.is_attached = true;
        let (reply, riding) = self.processes.attached();
        connection.reply_with(&reply, &riding)
    }

    /// Tells the daemon which processes have ended. One that does not read is let go, and learns of
    /// them when it attaches again: a status is kept until it is asked to be forgotten.
    fn tell_exits(&mut self) {
        if !std::mem::take(&mut self.has_exits) {
            return;
        }
        let Some(index) = self.connections.iter().position(|c| c.is_attached) else { return };
        let replies = self.processes.untold();
        if self.connections.get(index).is_some_and(|c| c.reply_all(&replies).is_err()) {
            self.connections.swap_remove(index);
        }
    }

    fn tell_changes(&mut self) {
        let changes = self.app.take_changes();
        for reply in &changes {
            self.connections.retain(|c| !c.watches_app || c.reply(reply).is_ok());
        }
    }
}
