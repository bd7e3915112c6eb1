//! Looks at a log's directory on the real disk.

use std::fs;
use std::path::Path;

/// The names in a directory, in order.
pub(crate) fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the directory is there");
    let mut names: Vec<String> = entries
        .map(|entry| {
            entry
                .expect("the directory can be listed")
                .file_name()
                .into_string()
                .expect("names are ASCII")
        })
        .collect();
    names.sort();
    names
}

/// The names that end in `.log`: the segments.
pub(crate) fn segments(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| name.ends_with(".log")).collect()
}

/// The total size of all files. A file that is removed during the count counts as empty.
pub(crate) fn bytes(dir: &Path) -> u64 {
    names(dir)
        .iter()
        .filter_map(|name| fs::metadata(dir.join(name)).ok())
        .map(|metadata| metadata.len())
        .sum()
}

/// Copies the files of a directory without subdirectories. Creates `target`.
pub(crate) fn copy_dir(source: &Path, target: &Path) {
    fs::create_dir_all(target).expect("a directory can be made");
    for name in names(source) {
        fs::copy(source.join(&name), target.join(&name)).expect("a file can be copied");
    }
}
