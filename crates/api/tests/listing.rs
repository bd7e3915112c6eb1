//! `docs/api.txt` lists the public API: a change of it is seen in review.

use std::process::Command;

#[test]
fn the_listing_of_the_public_api_is_up_to_date() {
    let checked = Command::new(env!("CARGO_BIN_EXE_seawall-api")).arg("--check").output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr);
    assert!(checked.status.success(), "{said}");
}
