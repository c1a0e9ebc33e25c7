//! A relay for the domain name system: sandboxes ask the bridge, the daemon asks the host's servers.
//!
//! So names resolve wherever the daemon runs: a container's `127.0.0.11` and a host's `127.0.0.53` can
//! be reached by the daemon, but by no sandbox. Messages are passed on as they are (RFC 1035); each
//! goes out from a socket of its own, so that answers cannot be guessed or mixed up.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const PORT: u16 = 53;
/// The largest message over UDP with EDNS (RFC 6891).
const MESSAGE_BYTES_MAX: usize = 4096;
/// The header, and so the least, of a message.
const HEADER_BYTES: usize = 12;
/// How many questions may be under way.
const UNDER_WAY_MAX: usize = 512;
/// How many connections over TCP may be open, and for how long.
const CONNECTIONS_MAX: usize = 64;
const CONNECTION_DEADLINE: Duration = Duration::from_secs(15);
/// How long a server may take before the next one is asked.
const SERVER_DEADLINE: Duration = Duration::from_secs(2);
/// How many servers are asked.
const SERVERS_MAX: usize = 3;

/// The relay's sockets on the bridge.
#[derive(Debug)]
pub struct DnsSockets {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
    address: Ipv4Addr,
}

impl DnsSockets {
    /// Binds port 53, UDP and TCP.
    ///
    /// # Errors
    /// The address is not the host's, or the port is taken.
    pub async fn bind(address: Ipv4Addr) -> io::Result<Self> {
        let udp = Arc::new(UdpSocket::bind((address, PORT)).await?);
        Ok(Self { udp, tcp: TcpListener::bind((address, PORT)).await?, address })
    }
}

/// Relays until told to end.
pub async fn serve(sockets: DnsSockets, ending: CancellationToken) {
    let tasks = TaskTracker::new();
    let (questions, connections) =
        (Arc::new(Semaphore::new(UNDER_WAY_MAX)), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        tokio::select! {
            () = ending.cancelled() => break,
            received = sockets.udp.recv_from(&mut buffer) => {
                let Ok((length, client)) = received else { continue };
                // Beyond the limit a question is dropped, as a network would: the client asks again.
                let Ok(permit) = Arc::clone(&questions).try_acquire_owned() else { continue };
                let Some(question) = buffer.get(..length).filter(|q| q.len() >= HEADER_BYTES) else { continue };
                let (udp, question, own) = (Arc::clone(&sockets.udp), question.to_vec(), sockets.address);
                tasks.spawn(async move {
                    let answer = ask(&question, own).await.unwrap_or_else(|| failure(&question));
                    // The client may be gone.
                    let _ignored: io::Result<usize> = udp.send_to(&answer, client).await;
                    drop(permit);
                });
            }
            accepted = sockets.tcp.accept() => {
                let Ok((client, _)) = accepted else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else { continue };
                let own = sockets.address;
                tasks.spawn(async move {
                    let _ended: Result<(), _> = tokio::time::timeout(CONNECTION_DEADLINE, pass_on(client, own)).await;
                    drop(permit);
                });
            }
        }
    }
    tasks.close();
}

/// Asks the servers one after the other; `None` when none answers.
async fn ask(question: &[u8], own: Ipv4Addr) -> Option<Vec<u8>> {
    for server in servers(own).await {
        if let Ok(Ok(answer)) = tokio::time::timeout(SERVER_DEADLINE, ask_one(question, server)).await {
            return Some(answer);
        }
    }
    None
}

async fn ask_one(question: &[u8], server: IpAddr) -> io::Result<Vec<u8>> {
    let any: SocketAddr = if server.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    // Connected, so that nobody else's packet is taken for the answer.
    socket.connect((server, PORT)).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if length >= HEADER_BYTES && buffer.get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn pass_on(mut client: TcpStream, own: Ipv4Addr) {
    for server in servers(own).await {
        if let Ok(Ok(mut upstream)) =
            tokio::time::timeout(SERVER_DEADLINE, TcpStream::connect((server, PORT))).await
        {
            // Either side may break off; the deadline around this ends what does not end by itself.
            let _ended: io::Result<(u64, u64)> =
                tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
            return;
        }
    }
}

/// Reads the host's servers afresh each time: the file is small and may change at any time.
async fn servers(own: Ipv4Addr) -> Vec<IpAddr> {
    let text = tokio::fs::read_to_string("/etc/resolv.conf").await.unwrap_or_default();
    parse_servers(&text, own)
}

fn parse_servers(text: &str, own: Ipv4Addr) -> Vec<IpAddr> {
    let address = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
    text.lines().filter_map(address).filter(|a| *a != IpAddr::V4(own)).take(SERVERS_MAX).collect()
}

/// Answers `SERVFAIL` (RFC 1035, 4.1.1).
fn failure(question: &[u8]) -> Vec<u8> {
    const RESPONSE: u8 = 0x80;
    const RECURSION_AVAILABLE_SERVFAIL: u8 = 0x82;
    let mut answer = question.to_vec();
    if let [_, _, flags, code, ..] = answer.as_mut_slice() {
        *flags |= RESPONSE;
        *code = RECURSION_AVAILABLE_SERVFAIL;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_and_never_ourselves() {
        let own = Ipv4Addr::new(10, 88, 0, 1);
        let text =
            "# x\nsearch a\nnameserver 10.88.0.1\nnameserver 127.0.0.11\n nameserver ::1\nnameserver x\n";
        assert_eq!(
            parse_servers(text, own),
            ["127.0.0.11".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]
        );
    }

    #[test]
    fn a_failure_keeps_the_question() {
        let question = [7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 42];
        let answer = failure(&question);
        assert_eq!((answer[..2].to_vec(), answer[2] & 0x80, answer[3] & 0x0f), (vec![7, 9], 0x80, 2));
        assert_eq!(answer[12], 42);
    }
}
