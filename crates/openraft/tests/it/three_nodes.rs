//! The example `three_nodes`, run as a program for some seconds.

use std::process::Command;

use crate::support::watchdog;

#[test]
fn no_acknowledged_write_is_lost_when_nodes_are_killed() {
    watchdog(240, || {
        let this_test = std::env::current_exe().unwrap();
        let profile_dir = this_test.parent().and_then(|deps| deps.parent()).unwrap();
        let name = format!("three_nodes{}", std::env::consts::EXE_SUFFIX);
        let program = profile_dir.join("examples").join(name);
        let output = Command::new(&program)
            .args(["--seconds", "12"])
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{text}\n{errors}");
        assert!(text.contains("all are there, in order"), "{text}\n{errors}");
    });
}
