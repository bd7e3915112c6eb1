//! `docs/cluster.md`: its commands run, and its settings are sound.

use std::path::Path;
use std::process::Command;

use seawall_server::Config;

use crate::dev::outcome_of;
use crate::packaging::{can_run, free_ports};
use crate::tool::{seawall, seawallctl};

const PAGE: &str = include_str!("../../../../docs/cluster.md");

/// What a line between two blocks looks like in what the script writes.
const MARK: &str = "== block ";

/// Returns the blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    let blocks = PAGE.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.map(str::to_owned).collect()
}

/// A directory from which the commands find what they need, and no port is taken.
struct Scene {
    dir: tempfile::TempDir,
    port: u16,
}

impl Scene {
    fn new() -> Scene {
        let dir = tempfile::tempdir().unwrap();
        let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging");
        std::os::unix::fs::symlink(packaging, dir.path().join("packaging")).unwrap();
        Scene { dir, port: free_ports() }
    }

    /// Gives the commands ports of their own.
    fn moved(&self, text: &str) -> String {
        (0..10).fold(text.to_owned(), |text, nth| {
            let page = format!("127.0.0.1:{}", self.port + 100 + nth);
            let addr = format!("127.0.0.1:{}", self.port + nth);
            text.replace(&format!("127.0.0.1:710{nth}"), &page)
                .replace(&format!("127.0.0.1:700{nth}"), &addr)
        })
    }

    fn run(&self, script: &str) -> (Option<i32>, String) {
        let programs = seawallctl().parent().unwrap();
        assert_eq!(seawall().parent(), Some(programs), "one directory has all programs");
        let path = programs.display();
        let mut command = Command::new("timeout");
        command.args(["110", "sh", "-c", script]).current_dir(self.dir.path());
        command.env("PATH", format!("{path}:{}", std::env::var("PATH").unwrap()));
        command.env("PORT", self.port.to_string()).env("NO_COLOR", "1");
        for (key, value) in [
            ("SPACE_FREE_PERCENT", "0"),
            ("SPACE_FREE_BYTES", "0B"),
            ("SPACE_BALLAST_BYTES", "64KiB"),
            ("RAFT_HEARTBEAT", "250ms"),
            ("RAFT_ELECTION_TIMEOUT", "1s"),
        ] {
            command.env(format!("SEAWALLD_{key}"), value);
        }
        outcome_of(&mut command)
    }
}

#[test]
fn the_commands_of_the_page_run_in_the_order_of_the_page() {
    // Method: all blocks are one script, and the first command that fails ends it.
    if !can_run() {
        return;
    }
    let scene = Scene::new();
    let blocks = blocks("sh");
    assert!(blocks.len() >= 8, "{blocks:?}");
    let mut script = "set -eu
        end() {
            kill ${fourth:-} ${fifth:-} 2>/dev/null || true
            packaging/three-nodes.sh stop data >/dev/null || true
        }
        trap end EXIT\n"
        .to_owned();
    for (nth, block) in blocks.iter().enumerate() {
        script += &format!("echo '{MARK}{nth}'\n{}\n", scene.moved(block));
    }
    script += &format!("echo '{MARK}end'\nseawallctl cluster status\necho | seawallctl produce\n");
    let (code, text) = scene.run(&script);
    assert_eq!(code, Some(0), "{text}");

    let of_block = |part: &str| {
        let nth = blocks.iter().position(|block| block.contains(part)).expect(part);
        let from = text.split(&format!("{MARK}{nth}\n")).nth(1).expect(part);
        from.split(MARK).next().unwrap().to_owned()
    };
    assert!(of_block("kill -9").ends_with("one\ntwo\n"), "{text}");
    assert_eq!(of_block("packaging/three-nodes.sh restart").matches("ready, node").count(), 3);
    assert_eq!(of_block("cluster leave").matches(" voter ").count(), 3 + 3, "{text}");
    assert!(of_block("seawall check").contains("sound"), "{text}");
    assert!(of_block("mv data lost").ends_with("one\ntwo\n"), "{text}");
}

#[test]
fn a_command_of_the_page_that_fails_ends_the_script() {
    let scene = Scene::new();
    let (code, text) = scene.run("set -eu\nseawallctl cluster nothing\necho reached");
    assert!(code == Some(2) && !text.contains("reached"), "{text}");
}

#[test]
fn the_commands_within_the_text_exist() {
    // Method: ask each for its help. That fails for a command or an option that is not there.
    let scene = Scene::new();
    let mut text = PAGE.to_owned();
    for language in ["sh", "toml"] {
        for block in blocks(language) {
            text = text.replace(&block, "");
        }
    }
    let codes = text.replace("```", "").replace('\n', " ");
    let codes: Vec<&str> = codes.split('`').skip(1).step_by(2).collect();
    let names = ["seawalld ", "seawallctl ", "seawall "];
    let commands = codes.iter().filter(|code| names.iter().any(|name| code.starts_with(name)));
    let commands: Vec<&&str> = commands.collect();
    assert!(commands.len() >= 3, "{codes:?}");
    for command in commands {
        let (code, text) = scene.run(&format!("{command} --help"));
        assert_eq!(code, Some(0), "{command}: {text}");
    }
}

#[test]
fn the_settings_of_the_page_are_sound() {
    let dir = tempfile::tempdir().unwrap();
    let settings = blocks("toml");
    assert_eq!(settings.len(), 1);
    let path = dir.path().join("node.conf");
    std::fs::write(&path, &settings[0]).unwrap();
    let config = Config::load(Some(&path), [], &[]).unwrap();
    assert!(config.seeds.contains(config.advertise.as_ref().unwrap()), "{config:?}");
}
