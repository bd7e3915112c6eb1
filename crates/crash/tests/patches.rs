//! The patches that plant bugs, against the source as it is.

use std::io::Write as _;
use std::process::Command;

use seawall_crash::patches::Patch;

#[test]
fn every_patch_applies() {
    // Method: let git check each patch against the source, without a change to it.
    if Command::new("git").arg("--version").output().is_err() {
        drop(std::io::stderr().write_all(b"\nSKIPPED: there is no git to apply patches\n"));
        return;
    }
    let patches = Patch::all().unwrap();
    let failures: Vec<_> = patches.iter().filter_map(|patch| patch.check().err()).collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn every_patch_has_a_number_of_its_own() {
    let numbers: Vec<u32> = Patch::all().unwrap().iter().map(|patch| patch.number).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
}
