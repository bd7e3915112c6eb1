//! Floods of HTTP/2: clients that write frames by hand. The memory of the process stays bounded,
//! another client is served meanwhile, and the server lives after.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use prost::Message as _;

use crate::common::{from, one, run};
use crate::daemon::{Daemon, tell};

/// How long most floods last. It is long enough to take the memory of an unbounded server.
const FLOOD: Duration = Duration::from_secs(2);

/// A call of the other client that takes longer has starved. What is usual is a few milliseconds,
/// and beside clients that do not read, 20 s.
const STARVED: Duration = Duration::from_secs(60);

/// How much a process may grow, at its peak. A server at rest has about 15 MiB.
const GROWTH_MIB_MAX: u64 = 48;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const INITIAL_WINDOW_SIZE: u8 = 4;

/// The largest payload that the server takes.
const PAYLOAD_MAX: usize = 16 << 10;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A header that is not in the tables, as HPACK encodes it. `first` says whether it goes into one.
fn header(first: u8, name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![first];
    for text in [name, value] {
        bytes.extend(hpack_length(text.len()));
        bytes.extend(text.as_bytes());
    }
    bytes
}

/// A length with a prefix of 7 bits.
fn hpack_length(length: usize) -> Vec<u8> {
    let byte = |part: usize| u8::try_from(part).unwrap();
    let Some(mut rest) = length.checked_sub(127) else { return vec![byte(length)] };
    let mut bytes = vec![127];
    while rest >= 128 {
        bytes.push(byte(rest % 128) | 128);
        rest /= 128;
    }
    bytes.push(byte(rest));
    bytes
}

/// The headers of a call, without those that a client adds.
fn call(method: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http` of the static table.
    let mut bytes = vec![0x83, 0x86];
    bytes.extend(header(0, ":path", &format!("/log.v1.Log/{method}")));
    bytes.extend(header(0, ":authority", "a"));
    bytes.extend(header(0, "content-type", "application/grpc"));
    bytes.extend(header(0, "te", "trailers"));
    bytes
}

/// What a hostile client does with its connections.
struct Flood {
    name: &'static str,
    /// What follows the preface: at least a frame of settings.
    settings: Vec<u8>,
    /// The bytes of each round, with the id of a stream that is new. They go on without an end.
    bytes: fn(u32) -> Vec<u8>,
    /// How many rounds a connection has. It stays open after them.
    rounds: u32,
    connections: usize,
    lasts: Duration,
    growth_mib_max: u64,
}

impl Flood {
    fn new(name: &'static str, bytes: fn(u32) -> Vec<u8>) -> Flood {
        Flood {
            name,
            settings: frame(SETTINGS, 0, 0, &[]),
            bytes,
            rounds: u32::MAX,
            connections: 4,
            lasts: FLOOD,
            growth_mib_max: GROWTH_MIB_MAX,
        }
    }

    /// Floods a server until the deadline. Returns how many bytes were sent, and how often the
    /// server has hung up.
    fn go(&self, addr: SocketAddr, does_read: bool, deadline: Instant) -> (u64, u64) {
        let mut sent = 0;
        let mut hang_ups = 0;
        while Instant::now() < deadline {
            let ended = self.connect(addr, does_read).and_then(|mut socket| {
                let ended = self.write(&mut socket, deadline, &mut sent);
                let _gone = socket.shutdown(Shutdown::Both);
                ended
            });
            hang_ups += u64::from(ended.is_err());
        }
        (sent, hang_ups)
    }

    fn connect(&self, addr: SocketAddr, does_read: bool) -> io::Result<TcpStream> {
        let mut socket = TcpStream::connect(addr)?;
        // A server that takes no more bytes must not hold up the test.
        socket.set_write_timeout(Some(Duration::from_millis(100)))?;
        socket.write_all(&[PREFACE, &self.settings].concat())?;
        if does_read {
            let mut reader = socket.try_clone()?;
            thread::spawn(move || {
                let mut bytes = vec![0; 64 << 10];
                while reader.read(&mut bytes).is_ok_and(|count| count > 0) {}
            });
        }
        Ok(socket)
    }

    fn write(&self, socket: &mut TcpStream, deadline: Instant, sent: &mut u64) -> io::Result<()> {
        let mut round = 0;
        let mut bytes: Vec<u8> = Vec::new();
        while Instant::now() < deadline {
            while round < self.rounds && bytes.len() < 64 << 10 {
                bytes.extend((self.bytes)(2 * round + 1));
                round += 1;
            }
            if bytes.is_empty() {
                // Shows whether the server has hung up.
                thread::sleep(Duration::from_millis(50));
                bytes = frame(PING, 0, 0, &[0; 8]);
            }
            match socket.write(&bytes) {
                Ok(count) => {
                    bytes.drain(..count);
                    *sent += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Returns a figure of a process, in KiB.
fn memory_kib(id: u32, figure: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(figure)).unwrap();
    line.trim_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap()
}

/// Floods a server that holds records, and checks what this file promises.
fn survives(flood: Flood) {
    run(async move {
        let dir = tempfile::tempdir().unwrap();
        let settings = ["limits.queue_bytes=4MiB", "limits.connections=100"];
        let daemon = Daemon::with(dir.path(), &settings);
        let mut client = daemon.log().await;
        for number in 0..16u8 {
            client.produce(one("", vec![number; 1 << 20])).await.unwrap();
        }
        let id = daemon.id();
        let before_kib = memory_kib(id, "VmRSS:");
        let deadline = Instant::now() + flood.lasts;
        let addr = daemon.addr;
        let flood = std::sync::Arc::new(flood);
        let clients: Vec<_> = (0..flood.connections)
            .map(|number| {
                let flood = flood.clone();
                thread::spawn(move || flood.go(addr, number % 2 == 0, deadline))
            })
            .collect();
        let mut slowest = Duration::ZERO;
        let mut rounds = 0u64;
        while Instant::now() < deadline {
            let start = Instant::now();
            // A connection of its own each time: there is room for one, too.
            let served = async {
                let mut client = daemon.log().await;
                let answer = client.produce(one("", "a")).await.unwrap().into_inner();
                let answer = client.consume(from("", answer.offset)).await.unwrap().into_inner();
                assert_eq!(&answer.records[0].value[..], b"a");
            };
            tokio::time::timeout(STARVED, served).await.expect("the other client starves");
            slowest = slowest.max(start.elapsed());
            rounds += 1;
        }
        let sums = clients.into_iter().map(|client| client.join().unwrap());
        let (sent, hang_ups) = sums.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1));
        let growth_mib = memory_kib(id, "VmHWM:").saturating_sub(before_kib) >> 10;
        tell(&format!(
            "{}: {} KiB sent, hung up {hang_ups} times, {growth_mib} MiB more than {} MiB; \
             {rounds} rounds of the other client, the slowest {slowest:?}",
            flood.name,
            sent >> 10,
            before_kib >> 10,
        ));
        assert!(sent > 0, "nothing was sent");
        let events = daemon.events().text();
        assert!(!events.contains("a call has failed"), "no fault of the server:\n{events}");
        assert!(growth_mib <= flood.growth_mib_max, "{growth_mib} MiB");
        client.produce(one("", "after")).await.unwrap();
        daemon.stop();
    });
}

#[test]
fn calls_that_are_opened_and_reset_at_once() {
    // CVE-2023-44487.
    survives(Flood::new("rapid reset", |stream| {
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &call("ConsumeStream"));
        bytes.extend(frame(RST_STREAM, 0, stream, &8u32.to_be_bytes()));
        bytes
    }));
}

#[test]
fn calls_that_the_server_itself_resets() {
    // A call may have no header of a connection.
    survives(Flood::new("malformed calls", |stream| {
        let headers = [call("ConsumeStream"), header(0, "connection", "close")].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &headers)
    }));
    // CVE-2025-8671: the window of a call becomes larger than a window may be.
    survives(Flood::new("windows that overflow", |stream| {
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &call("ConsumeStream"));
        bytes.extend(frame(WINDOW_UPDATE, 0, stream, &i32::MAX.to_be_bytes()));
        bytes
    }));
}

#[test]
fn settings_and_pings_that_want_answers() {
    survives(Flood::new("settings", |round| {
        let window = (round % 1_000).to_be_bytes();
        let setting = [&[0, INITIAL_WINDOW_SIZE][..], &window].concat();
        frame(SETTINGS, 0, 0, &setting)
    }));
    survives(Flood::new("pings", |round| {
        let payload = u64::from(round).to_be_bytes();
        frame(PING, 0, 0, &payload)
    }));
}

#[test]
fn frames_that_are_about_nothing() {
    survives(Flood::new("priorities", |stream| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 7])));
    survives(Flood::new("window updates", |stream| {
        // The window of the connection may grow only so far, and a call must be open.
        let update = frame(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes());
        if stream > 1 {
            return update;
        }
        [frame(HEADERS, END_HEADERS, 1, &call("ProduceStream")), update].concat()
    }));
    survives(Flood::new("empty data", |stream| {
        let empty = frame(DATA, 0, 1, &[]);
        if stream > 1 {
            return empty;
        }
        [frame(HEADERS, END_HEADERS, 1, &call("Produce")), empty].concat()
    }));
}

#[test]
fn headers_that_do_not_end() {
    survives(Flood::new("continuations", |stream| {
        let some = header(0, "x", &"v".repeat(PAYLOAD_MAX - 16));
        if stream > 1 {
            return frame(CONTINUATION, 0, 1, &some);
        }
        [frame(HEADERS, 0, 1, &call("Produce")), frame(CONTINUATION, 0, 1, &some)].concat()
    }));
    survives(Flood::new("empty continuations", |stream| {
        let empty = frame(CONTINUATION, 0, 1, &[]);
        if stream > 1 {
            return empty;
        }
        [frame(HEADERS, 0, 1, &call("Produce")), empty].concat()
    }));
}

#[test]
fn few_bytes_that_become_many_headers() {
    // The first header goes into the dynamic table. Each byte after it is that header again.
    let mut flood = Flood::new("a bomb of headers", |stream| {
        let mut headers = call("GetServers");
        headers.extend(header(0x40, "x", &"v".repeat(3 << 10)));
        headers.resize(PAYLOAD_MAX, 0x80 | 62);
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &headers)
    });
    flood.growth_mib_max = 8;
    survives(flood);
}

#[test]
fn answers_that_are_never_read() {
    // Method: calls that may get one byte. Their answers take all the room that answers have, until
    // the server closes their connections; the clients come again then.
    let mut flood = Flood::new("answers that are not read", |stream| {
        let method = ["Consume", "ConsumeStream"][stream as usize / 2 % 2];
        let request = from("", 0).encode_to_vec();
        let mut message = vec![0];
        message.extend(u32::try_from(request.len()).unwrap().to_be_bytes());
        message.extend(request);
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &call(method));
        bytes.extend(frame(DATA, END_STREAM, stream, &message));
        bytes
    });
    flood.settings = frame(SETTINGS, 0, 0, &[0, INITIAL_WINDOW_SIZE, 0, 0, 0, 1]);
    flood.rounds = 250;
    flood.lasts = Duration::from_secs(30);
    // Without a bound it is 1 GiB. Reads that run at once take some tens.
    flood.growth_mib_max = 160;
    survives(flood);
}

#[test]
fn calls_that_are_opened_and_never_end() {
    // Method: more of them than a connection may have, each with a part of a message.
    let mut flood = Flood::new("calls without an end", |stream| {
        let method = ["Produce", "ProduceStream", "Consume", "GetServers"][stream as usize / 2 % 4];
        let message = [0, 0, 0x10, 0, 0, 7, 7, 7];
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &call(method));
        bytes.extend(frame(DATA, 0, stream, &message));
        bytes
    });
    flood.rounds = 20_000;
    flood.growth_mib_max = 16;
    survives(flood);
}
