//! The pages in a real browser: they render, a tip shows a frame, and the console stays silent.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::logs;
use crate::run::{Ran, Scratch, skip, watchdog};

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
        skip("there is no chromium: the pages were not rendered");
    }
    found
}

/// Loads a page, and returns what it is after its scripts have run. `probe` runs after them.
fn render(scratch: &Scratch, browser: &str, page: &Path, probe: &str) -> Ran {
    let html = std::fs::read_to_string(page).expect("the page is there");
    let probed = scratch.path("probed.html");
    let script = format!("<script>window.addEventListener('load', () => {{ {probe} }});</script>");
    std::fs::write(&probed, html.replace("</body>", &format!("{script}</body>")))
        .expect("it can be written");
    let mut command = Command::new(browser);
    command.args([
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        "--virtual-time-budget=2000",
        "--window-size=1200,1600",
        "--dump-dom",
    ]);
    let profile = scratch.path("profile");
    command.arg(format!("--user-data-dir={}", profile.display()));
    command.arg(format!("file://{}", probed.display()));
    scratch.run(command, b"").expect(0, &["</html>"])
}

/// Loads a page as [`render`] does, and checks that the console stays silent.
fn render_silently(scratch: &Scratch, browser: &str, page: &Path, probe: &str) -> Ran {
    let ran = render(scratch, browser, page, probe);
    assert!(!ran.err.contains(CONSOLE), "the console is not silent: {}", ran.err);
    ran
}

#[test]
fn what_the_console_says_is_seen() {
    let Some(browser) = browser() else { return };
    watchdog(180, || {
        let scratch = Scratch::new();
        let page = scratch.path("page.html");
        std::fs::write(&page, "<!doctype html><html><body></body></html>").expect("it is written");
        for probe in ["console.error('told');", "throw new Error('told');"] {
            let ran = render(&scratch, browser, &page, probe);
            assert!(ran.err.contains(CONSOLE) && ran.err.contains("told"), "{ran:#?}");
        }
    });
}

/// A page that needs nothing from elsewhere.
fn assert_self_contained(page: &Path) {
    let html = std::fs::read_to_string(page).expect("the page is there");
    let html = html.replace("http://www.w3.org/2000/svg", "");
    for word in ["http:", "https:", "src=", "@import", "url("] {
        assert!(!html.contains(word), "{word}");
    }
}

#[test]
fn the_map_of_a_log_shows_each_frame_under_the_pointer() {
    watchdog(180, || {
        let scratch = Scratch::new();
        let dir = scratch.path("wal");
        logs::sound(&dir);
        let (_, offset) = logs::flip(&dir, 6);
        scratch
            .tool(["inspect", "wal", "--html", "page.html"])
            .expect(1, &["damaged", "page.html"]);
        let page = scratch.path("page.html");
        assert_self_contained(&page);
        let html = std::fs::read_to_string(&page).expect("it is there");
        for text in ["wal-000002.log", "LSN 6 (1 record)", "seawall salvage wal", "data-cell"] {
            assert!(html.contains(text), "{text}");
        }
        let Some(browser) = browser() else { return };
        // The pointer goes to where the cell is drawn: what is there gets the event.
        let probe = "const seen = [];
            for (const name of ['damaged', 'live', 'state', 'header']) {
                const box = document.querySelector('#map rect.' + name).getBoundingClientRect();
                const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
                document.elementFromPoint(at.clientX, at.clientY)
                    .dispatchEvent(new MouseEvent('mousemove', { bubbles: true, ...at }));
                const tip = document.getElementById('tip');
                seen.push(tip.style.display + ': ' + tip.textContent);
            }
            const drawn = document.querySelector('#sizes svg').getBoundingClientRect();
            document.body.dataset.seen = seen.join('|') + '|' + (drawn.width > 500 && drawn.height > 100);";
        let ran = render_silently(&scratch, browser, &page, probe);
        let at = ran.out.find("data-seen=\"").expect("the probe ran");
        let seen = ran.out[at + 11..].split('"').next().expect("it ends");
        let seen: Vec<&str> = seen.split('|').collect();
        assert_eq!(seen.len(), 5, "{seen:?}");
        let [damaged, live, state, header, drawn] = seen[..] else { unreachable!() };
        for text in ["block: wal-000002.log: damaged", "LSN 6", &grouped(offset), "does not verify"]
        {
            assert!(damaged.contains(text), "{text}: {damaged}");
        }
        assert!(live.contains("wal-000001.log: records") && live.contains("LSN 1"), "{live}");
        assert!(state.contains("state and checkpoint"), "{state}");
        assert!(header.contains("header") && header.contains("offset 0 to 8,192"), "{header}");
        assert_eq!(drawn, "true");
    });
}

fn grouped(number: u64) -> String {
    format!("{},{:03}", number / 1000, number % 1000)
}

#[test]
fn the_page_of_a_sound_log_and_of_a_torn_one() {
    watchdog(180, || {
        let scratch = Scratch::new();
        logs::sound(&scratch.path("wal"));
        logs::torn(&scratch.path("torn"));
        let browser = browser();
        for (name, class) in [("wal", "live"), ("torn", "torn")] {
            let page = scratch.path(&format!("{name}.html"));
            let arguments = ["inspect", name, "--html"].map(PathBuf::from);
            scratch.tool(arguments.iter().chain([&page])).expect(0, &["sound"]);
            assert_self_contained(&page);
            let html = std::fs::read_to_string(&page).expect("it is there");
            assert_eq!(html.contains("class=\"torn"), class == "torn");
            if let Some(browser) = browser {
                render_silently(&scratch, browser, &page, "")
                    .expect(0, &[&format!("<rect class=\"{class}")]);
            }
        }
    });
}

#[test]
fn the_page_of_a_log_with_lsns_that_no_javascript_number_holds() {
    watchdog(180, || {
        let scratch = Scratch::new();
        let first = (1 << 62) - 5;
        let wal = seawall::Wal::open(scratch.path("wal")).expect("a new log");
        wal.reset(seawall::Lsn::new(first)).expect("it can be reset");
        for _ in 0..4 {
            wal.append("x").expect("it can be appended");
        }
        wal.close().expect("it can be closed");
        scratch.tool(["inspect", "wal", "--html", "page.html"]).expect(0, &["sound"]);
        let page = scratch.path("page.html");
        let html = std::fs::read_to_string(&page).expect("it is there");
        assert!(html.contains(&format!("LSN {first}")), "the plot has the exact LSN");
        let Some(browser) = browser() else { return };
        let probe = "const box = document.querySelector('#map rect.live').getBoundingClientRect();
            const at = { clientX: box.x + box.width / 2, clientY: box.y + 3, bubbles: true };
            document.elementFromPoint(at.clientX, at.clientY).dispatchEvent(new MouseEvent('mousemove', at));
            document.body.dataset.seen = document.getElementById('tip').textContent;";
        let ran = render_silently(&scratch, browser, &page, probe);
        ran.expect(0, &[&format!("data-seen=\"wal-000002.log: recordsLSN {first}")]);
    });
}

#[test]
fn the_page_shows_a_lost_file_and_none_that_a_checkpoint_removed() {
    let scratch = Scratch::new();
    let dir = scratch.path("wal");
    logs::sound(&dir);
    scratch.tool(["checkpoint", "wal", "--up-to", "6", "--yes"]).expect(0, &[]);
    assert!(!logs::segment(&dir, 1).exists());
    let arguments = ["inspect", "wal", "--html", "page.html"];
    scratch.tool(arguments).expect(0, &["sound"]);
    let html = std::fs::read_to_string(scratch.path("page.html")).expect("it is there");
    assert!(!html.contains("wal-000001.log"), "a checkpoint removed it");
    std::fs::remove_file(logs::segment(&dir, 3)).expect("it is there");
    scratch.tool(arguments).expect(1, &["damaged"]);
    let html = std::fs::read_to_string(scratch.path("page.html")).expect("it is there");
    assert!(!html.contains("wal-000001.log"), "a checkpoint removed it");
    for text in ["rect class=\"missing", "wal-000003.log<small>missing", "id=\"steps\""] {
        assert!(html.contains(text), "{text}");
    }
}

#[test]
fn a_benchmark_is_a_page_and_json() {
    watchdog(180, || {
        let scratch = Scratch::new();
        let arguments = ["bench", "disk", "--seconds", "1", "--rounds", "2", "--threads", "1,4"];
        let rest = ["--json", "--report", "report.html"];
        let ran = scratch.tool(arguments.iter().chain(&rest)).expect(0, &["report: report.html"]);
        let measured = ran.json();
        assert_eq!(measured["appends"].as_array().map(Vec::len), Some(2));
        for series in measured["appends"].as_array().expect("a list") {
            assert!(series["median"].as_f64().expect("a number") > 0.0, "{series}");
            assert_eq!(series["ratio"]["rounds"].as_array().map(Vec::len), Some(2), "{series}");
            let latency = |name: &str| series["latency"][name].as_f64().expect("a number");
            // No disk syncs within a microsecond, and no append takes longer than the run.
            assert!(latency("p50") > 1.0 && latency("max") < 60e6, "{series}");
            assert!(latency("p50") <= latency("p99") && latency("p99") <= latency("max"));
        }
        let left = std::fs::read_dir(scratch.path("disk")).expect("it is there").count();
        assert_eq!(left, 0, "the files are removed");
        let page = scratch.path("report.html");
        assert_self_contained(&page);
        let Some(browser) = browser() else { return };
        let probe = "const boxes = [...document.querySelectorAll('figure svg')]
                .map((svg) => svg.getBoundingClientRect());
            const isDrawn = boxes.every((box) => box.width > 500 && box.height > 200);
            document.body.dataset.seen = boxes.length + ' ' + isDrawn;";
        let ran = render_silently(&scratch, browser, &page, probe);
        ran.expect(0, &["data-seen=\"3 true\"", "append, 4 threads"]);
    });
}
