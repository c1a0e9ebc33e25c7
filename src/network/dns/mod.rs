//! A relay for the domain name system: sandboxes ask the bridge, the daemon asks the host's servers.
//!
//! So names resolve wherever the daemon runs: a container's `127.0.0.11` and a host's `127.0.0.53` can
//! be reached by the daemon, but by no sandbox. Only questions are passed on, only those of sandboxes that live, and
//! each sandbox has a share of what may be under way. Each question goes out under an id of ours from a socket of
//! its own, so that answers cannot be guessed or mixed up. The firewall bounds how often a sandbox may ask.

mod message;
mod servers;
mod shares;

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::message::{QUESTION_BYTES_MAX, Question};
use self::servers::Servers;
use self::shares::{Piece, Shares};
use super::live::Live;

const PORT: u16 = 53;
/// The largest answer over UDP that is read; more than is asked for.
const ANSWER_BYTES_MAX: usize = 4096;
/// How many questions over UDP may be under way, each with a descriptor: of one sandbox, as many as a package manager
/// asks at once; and of all.
const UNDER_WAY_OF_EACH: usize = 32;
const UNDER_WAY_MAX: usize = 512;
/// How many connections over TCP may be open, each with two descriptors and 64 KiB while it is answered.
const CONNECTIONS_OF_EACH: usize = 4;
const CONNECTIONS_MAX: usize = 128;
/// How long a connection over TCP may be open, wait for its next question, and how many it may ask.
const CONNECTION_DEADLINE: Duration = Duration::from_secs(15);
const NEXT_DEADLINE: Duration = Duration::from_secs(3);
const QUESTIONS_OF_CONNECTION: usize = 32;
/// How long a server may take before the next one is asked.
const SERVER_DEADLINE: Duration = Duration::from_secs(2);

/// The relay's sockets on the bridge.
#[derive(Debug)]
pub struct DnsSockets {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    address: Ipv4Addr,
    live: Live,
}

impl DnsSockets {
    /// Binds port 53, UDP and TCP; `live` says who is answered.
    ///
    /// # Errors
    /// The address is not the host's, or the port is taken.
    pub async fn bind(address: Ipv4Addr, live: Live) -> io::Result<Self> {
        let udp = Arc::new(UdpSocket::bind((address, PORT)).await?);
        Ok(Self { udp, tcp: TcpListener::bind((address, PORT)).await?, address, live })
    }
}

/// What all questions share.
#[derive(Debug)]
struct Relay {
    servers: Servers,
    live: Live,
    udp: Shares,
    tcp: Shares,
    /// Makes ids that nobody can foresee: SipHash with random keys, of a number that is used once.
    ids: RandomState,
    asked: AtomicU64,
}

/// Relays until told to end.
pub async fn serve(sockets: DnsSockets, ending: CancellationToken) {
    let DnsSockets { udp, tcp, address, live } = sockets;
    let relay = Arc::new(Relay {
        servers: Servers::new(address),
        live,
        udp: Shares::new(UNDER_WAY_OF_EACH, UNDER_WAY_MAX),
        tcp: Shares::new(CONNECTIONS_OF_EACH, CONNECTIONS_MAX),
        ids: RandomState::new(),
        asked: AtomicU64::new(0),
    });
    let tasks = TaskTracker::new();
    // What is longer is cut off and so not well-formed.
    let mut buffer = vec![0; QUESTION_BYTES_MAX + 1];
    loop {
        tokio::select! {
            () = ending.cancelled() => break,
            received = udp.recv_from(&mut buffer) => {
                let Ok((length, client)) = received else { continue };
                let message = buffer.get(..length).unwrap_or_default();
                relay.receive(&tasks, &udp, message, client).await;
            }
            accepted = tcp.accept() => {
                let Ok((stream, client)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                // Beyond the share it is closed at once.
                let Some(piece) = relay.admit(&relay.tcp, client.ip()) else { continue };
                let (relay, own) = (Arc::clone(&relay), piece);
                tasks.spawn(async move {
                    let answering = relay.answer_all(stream);
                    // Either side may break off; this ends what does not end by itself.
                    let _ended: Result<io::Result<()>, _> = tokio::time::timeout(CONNECTION_DEADLINE, answering).await;
                    drop(own);
                });
            }
        }
    }
    tasks.close();
}

impl Relay {
    /// A piece of a share, for whoever is a sandbox that lives.
    fn admit(&self, shares: &Shares, client: IpAddr) -> Option<Piece> {
        match client {
            IpAddr::V4(address) if self.live.has(address) => shares.take(address),
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        }
    }

    /// Takes a message over UDP. Beyond the share it is dropped, as a network would: the client asks again.
    async fn receive(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        udp: &Arc<UdpSocket>,
        message: &[u8],
        client: SocketAddr,
    ) {
        let Some(piece) = self.admit(&self.udp, client.ip()) else { return };
        let question = match Question::parse(message) {
            Ok(question) => question,
            Err(code) => {
                if let Some(code) = code {
                    // The client may be gone, or not read.
                    let _ignored: io::Result<usize> =
                        udp.try_send_to(&message::refuse(message, code), client);
                }
                return;
            }
        };
        let (relay, udp) = (Arc::clone(self), Arc::clone(udp));
        tasks.spawn(async move {
            let answer = match relay.ask(&question, Transport::Udp).await {
                Some(answer) => question.deliver(answer, question.payload()),
                None => question.fail(),
            };
            let _ignored: io::Result<usize> = udp.send_to(&answer, client).await;
            drop(piece);
        });
    }

    /// Answers the questions of a connection, one after the other (RFC 7766): each has its length before it.
    async fn answer_all(&self, mut client: TcpStream) -> io::Result<()> {
        for _question in 0..QUESTIONS_OF_CONNECTION {
            let next = tokio::time::timeout(NEXT_DEADLINE, read_message(&mut client, QUESTION_BYTES_MAX));
            let message = next.await??;
            let answer = match Question::parse(&message) {
                Ok(question) => match self.ask(&question, Transport::Tcp).await {
                    Some(answer) => question.deliver(answer, u16::MAX.into()),
                    None => question.fail(),
                },
                Err(Some(code)) => message::refuse(&message, code),
                Err(None) => return Ok(()),
            };
            write_message(&mut client, &answer).await?;
        }
        Ok(())
    }

    /// Asks the servers one after the other; `None` when none answers.
    async fn ask(&self, question: &Question, transport: Transport) -> Option<Vec<u8>> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        let [high, low, ..] = self.ids.hash_one(number).to_ne_bytes();
        for server in self.servers.list() {
            let asking = async {
                match transport {
                    Transport::Udp => ask_by_udp(question, [high, low], server).await,
                    Transport::Tcp => ask_by_tcp(question, [high, low], server).await,
                }
            };
            if let Ok(Ok(answer)) = tokio::time::timeout(SERVER_DEADLINE, asking).await {
                return Some(answer);
            }
        }
        None
    }
}

/// How a question came, and so how it is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

async fn ask_by_udp(question: &Question, id: [u8; 2], server: IpAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected, so that nobody else's packet is taken for the answer.
    socket.connect((server, PORT)).await?;
    socket.send(&question.ask(id)).await?;
    let mut buffer = vec![0; ANSWER_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer.get(..length).is_some_and(|answer| question.is_answered_by(id, answer)) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_by_tcp(question: &Question, id: [u8; 2], server: IpAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect((server, PORT)).await?;
    write_message(&mut stream, &question.ask(id)).await?;
    let answer = read_message(&mut stream, u16::MAX.into()).await?;
    if question.is_answered_by(id, &answer) { Ok(answer) } else { Err(io::ErrorKind::InvalidData.into()) }
}

async fn read_message(stream: &mut TcpStream, bytes_max: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > bytes_max {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_large| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await
}
