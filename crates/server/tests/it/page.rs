//! The status page in a real browser.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use seawall_proto::admin::v1 as admin;

use crate::cluster::Cluster;
use crate::common::{batch, one, run, start};
use crate::operator::{get_from, watched};

/// How the browser marks what a page says to its console.
const CONSOLE: &str = ":CONSOLE";

fn browser() -> Option<&'static str> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&&str| {
        let found = Command::new(name).arg("--version").output();
        found.is_ok_and(|output| output.status.success())
    };
    let found = names.iter().find(is_there).copied();
    if found.is_none() {
        let skipped = "SKIPPED: there is no chromium: the page was not rendered\n";
        std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    }
    found
}

/// Loads an address. Returns what the page is after some seconds, and what it said.
fn render(browser: &str, url: &str) -> (String, String) {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .args(["60", browser])
        .args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--enable-logging=stderr",
            "--virtual-time-budget=6000",
            "--window-size=1500,1000",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(url)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(output.stdout), text(output.stderr))
}

/// A cluster's name that would become markup, if it could.
const HOSTILE: &str = "<img src=x onerror=document.body.textContent=\"owned\">";

#[test]
fn the_page_shows_the_node_and_no_name_becomes_markup() {
    let Some(browser) = browser() else { return };
    run(async move {
        let dir = tempfile::tempdir().unwrap();
        let mut config = watched(dir.path());
        config.cluster = HOSTILE.to_owned();
        let server = start(config).await;
        let request = admin::CreateStreamRequest { stream: "orders".into(), limits: None };
        server.admin().await.create_stream(request).await.unwrap();
        server.log().await.produce(batch("orders", &["a"; 1_234])).await.unwrap();
        let url = format!("http://{}/", server.metrics_addr.unwrap());
        let task = tokio::task::spawn_blocking(move || render(browser, &url));
        let (page, console) = task.await.unwrap();
        assert!(!console.contains(CONSOLE), "the console is not silent: {console}");
        assert!(page.contains("&lt;img src=x") && !page.contains("<img"), "{page}");
        for text in
            [">serving<", ">orders<", ">1,234<", "node 1", "sync, p50", "leader", "connections"]
        {
            assert!(page.contains(text), "{text}: {page}");
        }
        server.stop().await.unwrap();
    });
}

#[test]
fn the_page_of_the_leader_shows_how_far_each_member_is() {
    let Some(browser) = browser() else { return };
    run(async move {
        let dir = tempfile::tempdir().unwrap();
        let cluster = Cluster::start_with(dir.path(), |config| {
            config.metrics_listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
            // The machine may be busy, and the leader must not change.
            config.raft.heartbeat = Duration::from_millis(500);
            config.raft.election_timeout = Duration::from_secs(5);
        })
        .await;
        let (place, leader_id) = cluster.leader().await;
        let mut nodes = cluster.nodes;
        let leader_page = nodes[place].metrics_addr.unwrap();
        let mut client = nodes[place].log().await;
        client.produce(one("", "a")).await.unwrap();
        let gone_place = (place + 1) % 3;
        let gone_id = nodes[gone_place].status().await.node_id;
        let other_id = 6 - leader_id - gone_id;
        wait_for_lags(leader_page, [(gone_id, 0), (other_id, 0)]).await;
        nodes.remove(gone_place).stop().await.unwrap();
        for _ in 0..5 {
            client.produce(one("", "a")).await.unwrap();
        }
        wait_for_lags(leader_page, [(gone_id, 5), (other_id, 0)]).await;
        for node in &nodes {
            let page = node.metrics_addr.unwrap();
            let is_leader = page == leader_page;
            let text = get_from(page, "/metrics").await.1;
            assert_eq!(text.contains("lag_entries"), is_leader, "{text}");
            for line in ["members 3", "voters 3", "members_warning 0"] {
                assert!(text.contains(&format!("seawall_raft_{line}\n")), "{line}: {text}");
            }
            let url = format!("http://{page}/");
            let task = tokio::task::spawn_blocking(move || render(browser, &url));
            let (text, console) = task.await.unwrap();
            assert!(!console.contains(CONSOLE), "the console is not silent: {console}");
            assert_eq!(text.matches(">voter<").count(), 2, "{text}");
            assert_eq!(text.matches(">leader</td>").count(), 1, "{text}");
            let has_lag = text.contains("data-label=\"behind\">5<");
            assert_eq!(has_lag, is_leader, "only the leader knows it: {text}");
            let says_where = !text.contains("id=\"lag-remark\" hidden");
            assert_eq!(says_where, !is_leader, "{text}");
        }
        for node in nodes {
            node.stop().await.unwrap();
        }
    });
}

/// Waits until the metrics have these lags of nodes.
async fn wait_for_lags(page: SocketAddr, wanted: [(u64, u64); 2]) {
    let line =
        |(id, lag)| format!("seawall_raft_follower_lag_entries{{follower=\"{id}\"}} {lag}\n");
    loop {
        let text = get_from(page, "/metrics").await.1;
        if wanted.iter().all(|wanted| text.contains(&line(*wanted))) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the operator should know, as a frame shows it.
const WARNING: &str = "the group has 4 voters: add or remove a node";

/// A member that the node does not have. Its address is long.
fn stranger() -> String {
    let addr = "n".repeat(200);
    format!(
        "{{\"node_id\":9,\"addr\":\"{addr}:1\",\"is_leader\":false,\"is_voter\":false,\
         \"is_leaving\":true,\"lag\":1234567}},"
    )
}

/// Serves the page without its policy, in a frame of each width. The outer page tells what it saw.
/// The frames see a warning and a member that the node does not have.
fn serve_frames(listener: &TcpListener, node: SocketAddr) {
    const OUTER: &str = "<!doctype html><body><script>
        for (const width of [400, 1400]) {
            const frame = document.createElement('iframe');
            frame.width = width; frame.height = 900; frame.src = '/';
            document.body.append(frame);
            setTimeout(() => {
                const inner = frame.contentDocument;
                const fits = inner.documentElement.scrollWidth <= width;
                const rows = inner.querySelectorAll('#streams tbody tr').length;
                const seen = document.createElement('p');
                const members = inner.querySelector('#members').innerText.replaceAll('\\n', ' ');
                const warning = inner.getElementById('warning');
                seen.textContent = width + ' fits ' + fits + ' rows ' + rows + ' warning ' +
                    (warning.hidden ? '' : warning.textContent) + ' members ' + members;
                document.body.append(seen);
            }, 4000);
        }</script></body>";
    for socket in listener.incoming() {
        let Ok(mut socket) = socket else { return };
        let mut request = [0; 4096];
        let Ok(read) = socket.read(&mut request) else { continue };
        let request = String::from_utf8_lossy(&request[..read]).into_owned();
        let path = request.split(' ').nth(1).unwrap_or("/");
        let answer = if path == "/outer" {
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n{OUTER}"
            )
        } else {
            let mut upstream = TcpStream::connect(node).unwrap();
            upstream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            write!(upstream, "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                .unwrap();
            let mut answer = String::new();
            upstream.read_to_string(&mut answer).unwrap();
            answer
                .replace("content-security-policy", "x-policy")
                .replace("content-length", "x-length")
                .replace("\"warning\":\"\"", &format!("\"warning\":\"{WARNING}\""))
                .replace("\"members\":[", &format!("\"members\":[{}", stranger()))
        };
        let _gone = socket.write_all(answer.as_bytes());
    }
}

#[test]
fn the_page_fits_a_phone_and_a_desk() {
    let Some(browser) = browser() else { return };
    run(async move {
        let dir = tempfile::tempdir().unwrap();
        let mut config = watched(dir.path());
        config.cluster = "c".repeat(128);
        let server = start(config).await;
        let request = admin::CreateStreamRequest { stream: "s".repeat(128), limits: None };
        server.admin().await.create_stream(request).await.unwrap();
        let node = server.metrics_addr.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/outer", listener.local_addr().unwrap());
        std::thread::spawn(move || serve_frames(&listener, node));
        let task = tokio::task::spawn_blocking(move || render(browser, &url));
        let (page, console) = task.await.unwrap();
        for width in [400, 1400] {
            let wanted = format!("{width} fits true rows 2 warning {WARNING} members ");
            let from = page.find(&wanted).unwrap_or_else(|| panic!("{wanted}: {page}\n{console}"));
            let line = page[from..].lines().next().unwrap();
            for text in ["learner, leaving", "1,234,567", "node 1", "leader"] {
                assert!(line.contains(text), "{text}: {line}");
            }
        }
        server.stop().await.unwrap();
    });
}
