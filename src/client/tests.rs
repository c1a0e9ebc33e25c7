//! The client against a small server that answers what a test tells it to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use super::*;

/// What the server does with one connection, in turn.
enum Step {
    /// Reads a request and writes these bytes.
    Answer(&'static str),
    /// Reads a request and writes the first bytes; the second after a while.
    Halting(&'static str, Duration, &'static str),
    /// Reads a request and says nothing until the client goes.
    Silence,
    /// Closes the connection after a while, without a request.
    Close(Duration),
}

/// A request as the server saw it: the connection's number, the request line and headers, the body.
type Seen = (usize, String, String);

const ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const SHORT: Duration = Duration::from_millis(300);

fn serve(connections: Vec<Vec<Step>>) -> (SocketAddr, Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, seen) = mpsc::channel();
    std::thread::Builder::new()
        .name("test-server".to_owned())
        .spawn(move || {
            for (number, steps) in connections.into_iter().enumerate() {
                let (mut stream, _) = listener.accept().unwrap();
                for step in steps {
                    if let Step::Close(pause) = step {
                        std::thread::sleep(pause);
                        break;
                    }
                    let (head, body) = read_request(&mut stream);
                    sender.send((number, head, body)).unwrap();
                    match step {
                        Step::Answer(text) => stream.write_all(text.as_bytes()).unwrap(),
                        Step::Halting(first, pause, second) => {
                            stream.write_all(first.as_bytes()).unwrap();
                            std::thread::sleep(pause);
                            stream.write_all(second.as_bytes()).unwrap();
                        }
                        Step::Silence => drop(stream.read(&mut [0; 1])),
                        Step::Close(_) => {}
                    }
                }
            }
        })
        .unwrap();
    (address, seen)
}

fn read_request(stream: &mut TcpStream) -> (String, String) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    (head, String::from_utf8(body).unwrap())
}

fn client(address: SocketAddr) -> Client {
    let timeouts = Timeouts { connect: SHORT, answer: SHORT };
    Client::with_timeouts(format!("http://{address}").parse().unwrap(), Some("secret"), timeouts)
}

const PURGED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 34\r\n\r\n{\"purged\":true,\"freed_bytes\":4096}";

#[tokio::test]
async fn sends_the_key_and_reuses_the_connection() {
    let (address, seen) = serve(vec![vec![Step::Answer(PURGED), Step::Answer(PURGED)]]);
    let client = client(address);
    for _ in 0..2 {
        let answer = client.purge(ID).await.unwrap();
        assert_eq!(answer.value, Purged { purged: true, freed_bytes: 4096 });
        assert_eq!(answer.json.len(), 34);
    }
    let requests: Vec<Seen> = (0..2).map(|_| seen.recv().unwrap()).collect();
    for (connection, head, _) in &requests {
        assert_eq!(*connection, 0, "one connection serves both");
        assert!(head.starts_with(&format!("POST /sandbox/{ID}/purge HTTP/1.1\r\n")), "{head}");
        assert!(head.contains("authorization: Bearer secret\r\n"), "{head}");
        assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
    }
}

#[tokio::test]
async fn a_closed_connection_is_replaced_unnoticed() {
    let closed = |after| vec![Step::Answer(PURGED), Step::Close(Duration::from_millis(after))];
    let (address, seen) = serve(vec![closed(0), closed(60), closed(0)]);
    let client = client(address);
    client.purge(ID).await.unwrap();
    // The connection's task sees the close and says so.
    tokio::time::sleep(Duration::from_millis(50)).await;
    client.purge(ID).await.unwrap();
    // It sees that the connection is idle, but a blocked thread keeps it from seeing the close.
    tokio::time::sleep(Duration::from_millis(10)).await;
    std::thread::sleep(Duration::from_millis(150));
    client.purge(ID).await.unwrap();
    assert_eq!(seen.iter().map(|(connection, ..)| connection).collect::<Vec<_>>(), [0, 1, 2]);
}

#[tokio::test]
async fn an_answer_has_a_limit() {
    let (address, _seen) = serve(vec![vec![Step::Answer(PURGED)], vec![Step::Answer(PURGED)]]);
    let transport = Transport::new(format!("http://{address}").parse().unwrap(), Timeouts::default());
    let request = || http::Request::get("/").header("host", "h").body(full("")).unwrap();
    let exchange = transport.send(request(), SHORT).await.unwrap();
    assert!(matches!(exchange.collect(33, SHORT).await, Err(TransportError::TooLarge { limit: 33, .. })));
    let exchange = transport.send(request(), SHORT).await.unwrap();
    assert_eq!(exchange.collect(34, SHORT).await.unwrap().len(), 34);
}

#[tokio::test]
async fn create_sends_what_was_asked_and_reads_the_row() {
    let (address, seen) = serve(vec![vec![Step::Answer(
        "HTTP/1.1 201 Created\r\ncontent-length: 52\r\n\r\n{\"id\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"status\":\"running\"}",
    )]]);
    let create = CreateSandbox { ports: vec![3000], ..CreateSandbox::default() };
    let row = client(address).create(&create).await.map(|answer| answer.value);
    // 52 is two bytes short on purpose: an answer that is cut is an error, not a row.
    assert!(matches!(row, Err(ClientError::Decode { path, .. }) if path == "/sandbox"));
    assert_eq!(seen.recv().unwrap().2, r#"{"ports":[3000]}"#);
}

#[tokio::test]
async fn a_refusal_keeps_the_servers_words() {
    let (address, _seen) = serve(vec![vec![Step::Answer(
        "HTTP/1.1 404 Not Found\r\nx-request-id: 01REQ\r\ncontent-length: 29\r\n\r\n{\"error\":\"sandbox not found\"}",
    )]]);
    let error = client(address).show("../admin").await.unwrap_err();
    assert_eq!(error.request_id(), Some("01REQ"));
    assert_eq!(error.to_string(), "GET /sandbox/..%2Fadmin: the server answered 404: sandbox not found");
}

#[tokio::test]
async fn deadlines_end_what_does_not_answer() {
    let (address, _seen) = serve(vec![
        vec![Step::Silence],
        vec![Step::Halting("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[", SHORT * 2, "]")],
    ]);
    let client = client(address);
    for _ in 0..2 {
        let error = client.list().await.unwrap_err();
        assert!(matches!(error, ClientError::Transport(TransportError::AnswerTimeout { .. })), "{error:?}");
    }
}

#[tokio::test]
async fn no_server_is_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client(free).list().await.unwrap_err();
    assert!(matches!(error, ClientError::Transport(TransportError::Connect { .. })), "{error:?}");
}

#[tokio::test]
async fn what_is_not_http_is_told_apart() {
    let (address, _seen) = serve(vec![vec![Step::Answer("SSH-2.0-OpenSSH_9.2\r\n")]]);
    let error = client(address).list().await.unwrap_err();
    assert!(matches!(error, ClientError::Transport(TransportError::Exchange { .. })), "{error:?}");
}

#[tokio::test]
async fn events_come_as_they_are_sent() {
    let (address, seen) = serve(vec![vec![Step::Halting(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nc\r\nid: 7\nevent:\r\n",
        Duration::from_millis(20),
        "d\r\n x\ndata: {}\n\n\r\n0\r\n\r\n",
    )]]);
    let client = client(address);
    let mut stream = client.events(Some(ID), Some(3), Some("6")).await.unwrap();
    let mut events = Vec::new();
    while let Some(more) = stream.next().await.unwrap() {
        events.extend(more);
    }
    let event = ServerEvent { id: Some("7".to_owned()), event: "x".to_owned(), data: "{}".to_owned() };
    assert_eq!(events, [event]);
    let (_, head, _) = seen.recv().unwrap();
    assert!(head.starts_with(&format!("GET /v1/events?sandbox={ID}&from=3 HTTP/1.1\r\n")), "{head}");
    assert!(
        head.contains("accept: text/event-stream\r\n") && head.contains("last-event-id: 6\r\n"),
        "{head}"
    );
}

#[tokio::test]
async fn what_does_not_switch_to_websocket_is_told_apart() {
    let (address, _seen) = serve(vec![
        vec![Step::Answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")],
        vec![Step::Answer(
            "HTTP/1.1 404 Not Found\r\ncontent-length: 25\r\n\r\n{\"error\":\"no such thing\"}",
        )],
    ]);
    let client = client(address);
    let error = client.follow_process(ID, "01P", 0, true).await.unwrap_err();
    assert!(matches!(error, ClientError::Output(OutputError::Form(_))), "{error:?}");
    let error = client.follow_process(ID, "01P", 0, true).await.unwrap_err();
    assert_eq!(error.refusal().unwrap().message, "no such thing");
}

#[tokio::test]
async fn an_upload_is_sent_as_it_comes() {
    let (address, seen) = serve(vec![vec![Step::Answer(
        "HTTP/1.1 200 OK\r\ncontent-length: 26\r\n\r\n{\"path\":\"\",\"entries\":3}   ",
    )]]);
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let client = client(address);
    let sending = client.write_archive(ID, Base::Home, "a b", stream_body(receiver));
    let feeding = async move {
        for piece in ["one", "two"] {
            sender.send(Ok(piece.into())).await.unwrap();
        }
    };
    let (sent, ()) = tokio::join!(sending, feeding);
    assert_eq!(sent.unwrap().value.entries, 3);
    let (_, head, _) = seen.recv().unwrap();
    let path = format!("PUT /v1/sandboxes/{ID}/files/archive?base=home&path=a%20b&format=tar HTTP/1.1\r\n");
    assert!(head.starts_with(&path) && head.contains("transfer-encoding: chunked"), "{head}");
}
