//! The machine on which the figures were measured.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    /// The file system of the measured directory, with its device and mount options.
    pub(crate) file_system: String,
    /// Whether that file system is in memory.
    pub(crate) is_memory: bool,
    /// The date in UTC.
    pub(crate) date: String,
}

impl Machine {
    pub(crate) fn of(dir: &Path) -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let file_system = file_system(&read("/proc/self/mountinfo"), dir);
        let memory_kib = field(&read("/proc/meminfo"), "MemTotal");
        Machine {
            processor: field(&read("/proc/cpuinfo"), "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.into()),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_kib
                .and_then(|kib| kib.trim_end_matches(" kB").parse::<u64>().ok())
                .unwrap_or(0)
                >> 10,
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            is_memory: file_system.as_ref().is_some_and(|own| own.starts_with("tmpfs ")),
            file_system: file_system.unwrap_or_else(|| "unknown".into()),
            date: date(SystemTime::now()),
        }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        vec![
            format!(
                "{}, {} processors, {} MiB of memory",
                self.processor, self.processors, self.memory_mib
            ),
            format!("{}, {}", self.kernel, self.file_system),
            self.date.clone(),
        ]
    }
}

/// The value of the first `key : value`.
fn field(text: &str, key: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.filter(|(own, _)| own.trim() == key).map(|(_, value)| value.trim().to_owned()).next()
}

/// The file system with the longest mount point above `dir`.
fn file_system(mounts: &str, dir: &Path) -> Option<String> {
    let dir = dir.canonicalize().ok()?;
    let mount = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let fields: Vec<&str> = mount.split(' ').collect();
        let point = *fields.get(4)?;
        let options = *fields.get(5)?;
        let mut source = source.split(' ');
        let kind = source.next()?;
        let device = source.next()?;
        dir.starts_with(point).then(|| (point.len(), format!("{kind} on {device} ({options})")))
    };
    mounts.lines().filter_map(mount).max_by_key(|(len, _)| *len).map(|(_, description)| description)
}

fn date(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", seconds / 3600 % 24, seconds / 60 % 60)
}

/// Year, month and day of a day since 1970.
///
/// # Source
/// Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(19_723), (2024, 1, 1));
    }

    #[test]
    fn the_file_system_is_that_of_the_longest_mount_point() {
        let mounts =
            "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n2 1 0:2 / /proc rw,nosuid - proc proc rw\n";
        assert_eq!(file_system(mounts, Path::new("/proc")).unwrap(), "proc on proc (rw,nosuid)");
        assert_eq!(file_system(mounts, Path::new("/")).unwrap(), "ext4 on /dev/a (rw)");
    }
}
