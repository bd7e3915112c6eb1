//! Jobs that need the real program, because they start it again.

#![cfg(target_os = "linux")]

use std::process::Command;

#[test]
fn a_writer_is_measured_beside_processes_that_follow() {
    // A process that ends too early is an error of the job.
    let dir = tempfile::tempdir().expect("a scratch directory");
    let dir = dir.path().to_str().expect("the name of the directory is UTF-8");
    let job = format!(
        r#"{{"engine":"seawall","dir":"{dir}","task":{{"Beside":{{"processes":2,"millis":100}}}}}}"#
    );
    let done = Command::new(env!("CARGO_BIN_EXE_seawall-bench"))
        .args(["job", &job])
        .output()
        .expect("the program starts");
    let report = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && report.starts_with(r#"{"Done":"#), "{report}");
}
