//! What a person sees: colour, width, numbers, tables, progress.

use std::fmt::Display;
#[cfg(any(unix, windows))]
use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use anstream::ColorChoice;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize, Style};
use seawall::LsnRange;

use crate::args::Colour;

/// The standard output, and what is known of the place where it ends.
pub(crate) struct Ui {
    pub(crate) out: BufWriter<Box<dyn Write>>,
    pub(crate) paint: Paint,
    /// The width of the terminal; `None` if the output is no terminal.
    width: Option<usize>,
    err_paint: Paint,
}

/// Whether to use colour.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Paint {
    on: bool,
}

/// What a text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Good,
    Warning,
    Bad,
    Strong,
    Faint,
}

impl Paint {
    /// For what is no terminal.
    pub(crate) const PLAIN: Paint = Paint { on: false };

    fn of(choice: Colour, seen: ColorChoice) -> Paint {
        let on = match choice {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => seen != ColorChoice::Never,
        };
        Paint { on }
    }

    pub(crate) fn text(self, tone: Tone, text: impl Display) -> String {
        let style = match tone {
            _ if !self.on => return text.to_string(),
            Tone::Good => Style::new().green(),
            Tone::Warning => Style::new().yellow(),
            Tone::Bad => Style::new().red().bold(),
            Tone::Strong => Style::new().bold(),
            Tone::Faint => Style::new().dimmed(),
        };
        text.style(style).to_string()
    }
}

impl Ui {
    pub(crate) fn new(choice: Colour) -> Ui {
        let stdout = io::stdout();
        let width = terminal_size::terminal_size_of(&stdout).map(|(width, _)| width.0.into());
        Ui {
            paint: Paint::of(choice, anstream::AutoStream::choice(&stdout)),
            err_paint: Paint::of(choice, anstream::AutoStream::choice(&io::stderr())),
            out: BufWriter::with_capacity(1 << 16, unbuffered(stdout)),
            width,
        }
    }

    pub(crate) fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// Prints `value` as JSON, in one line.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        self.out.write_all(b"\n")
    }

    /// Prints pairs of a name and a value, one in each line.
    pub(crate) fn pairs(&mut self, pairs: &[(&str, String)]) -> io::Result<()> {
        let longest = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in pairs {
            let name = self.paint.text(Tone::Faint, format!("{name:longest$}"));
            writeln!(self.out, "  {name}  {value}")?;
        }
        Ok(())
    }

    /// Prints a table. If it is wider than the terminal, the columns of the lowest rank go first.
    pub(crate) fn table(&mut self, columns: &[Column], rows: &[Row]) -> io::Result<()> {
        let mut kept: Vec<usize> = (0..columns.len()).collect();
        let lines = loop {
            let lines = draw(columns, rows, &kept);
            let widest = lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
            if self.width.is_none_or(|width| widest <= width) || kept.len() <= 2 {
                break lines;
            }
            let least = kept.iter().copied().min_by_key(|at| columns[*at].rank);
            kept.retain(|at| Some(*at) != least);
        };
        for (at, line) in lines.iter().enumerate() {
            let tone = match at {
                0 => Some(Tone::Faint),
                _ => rows.get(at - 1).and_then(|row| row.tone),
            };
            match tone {
                Some(tone) => writeln!(self.out, "{}", self.paint.text(tone, line))?,
                None => writeln!(self.out, "{line}")?,
            }
        }
        Ok(())
    }

    /// Writes what has been printed so far.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Tells a person something that is not part of the output. Failures have no other place to go.
    pub(crate) fn tell(&self, tone: Tone, text: impl Display) {
        let text = self.err_paint.text(tone, text);
        drop(writeln!(io::stderr(), "{text}"));
    }

    /// Tells a person a text that has its colours.
    pub(crate) fn tell_raw(&self, text: impl Display) {
        drop(writeln!(io::stderr(), "{text}"));
    }

    pub(crate) fn err_paint(&self) -> Paint {
        self.err_paint
    }
}

/// Returns the standard output without std's own buffer, which looks for ends of lines in all that
/// is written.
fn unbuffered(stdout: io::Stdout) -> Box<dyn Write> {
    #[cfg(unix)]
    if let Ok(own) = std::os::fd::AsFd::as_fd(&stdout).try_clone_to_owned() {
        return Box::new(File::from(own));
    }
    #[cfg(windows)]
    if let Ok(own) = std::os::windows::io::AsHandle::as_handle(&stdout).try_clone_to_owned() {
        return Box::new(File::from(own));
    }
    Box::new(stdout)
}

/// A column of a table. Numbers stand at the right; a low rank goes first on a narrow terminal.
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) is_number: bool,
    pub(crate) rank: u32,
}

impl Column {
    pub(crate) const fn text(name: &'static str, rank: u32) -> Column {
        Column { name, is_number: false, rank }
    }

    pub(crate) const fn number(name: &'static str, rank: u32) -> Column {
        Column { name, is_number: true, rank }
    }
}

/// A row of a table.
pub(crate) struct Row {
    pub(crate) cells: Vec<String>,
    pub(crate) tone: Option<Tone>,
}

fn draw(columns: &[Column], rows: &[Row], kept: &[usize]) -> Vec<String> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(kept.iter().map(|at| columns[*at].name));
    for row in rows {
        table.add_row(kept.iter().map(|at| &row.cells[*at]));
    }
    for (place, at) in kept.iter().enumerate() {
        if let Some(column) = table.column_mut(place) {
            column.set_padding((if place == 0 { 2 } else { 1 }, 1));
            if columns[*at].is_number {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// A progress bar for so many bytes, on the standard error. Without a terminal there, it is hidden.
pub(crate) fn byte_bar(verb: &'static str, total: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "{prefix} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta}";
    let style = ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█▉▊▋▌▍▎▏ ");
    let bar = ProgressBar::new(total).with_style(style).with_prefix(verb);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A progress bar for so many steps.
pub(crate) fn step_bar(verb: &'static str, total: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("█▉▊▋▌▍▎▏ ");
    let bar = ProgressBar::new(total).with_style(style).with_prefix(verb);
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Shows a range of LSNs: `LSN 7`, `LSN 7-12`, or `none`.
pub(crate) fn lsns(range: LsnRange) -> String {
    if range.is_empty() { "none".to_owned() } else { format!("LSN {}", lsns_bare(range)) }
}

/// Shows a range of LSNs without the word.
pub(crate) fn lsns_bare(range: LsnRange) -> String {
    match (range.is_empty(), range.len()) {
        (true, _) => "-".to_owned(),
        (false, 1) => range.first().to_string(),
        (false, _) => format!("{}-{}", range.first(), range.last()),
    }
}

/// Shows runs of LSNs, and how many records they are.
pub(crate) fn runs(ranges: &[LsnRange]) -> String {
    let count: u64 = ranges.iter().map(LsnRange::len).sum();
    let shown: Vec<String> = ranges.iter().map(|range| lsns_bare(*range)).collect();
    format!("LSN {} ({})", shown.join(", "), counted(count, "record"))
}

/// Shows a number of things: `1 record`, `1,234 records`.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(count))
}

/// Shows a number with commas.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Shows a size: `17 B`, `1.5 MiB`.
#[allow(clippy::cast_precision_loss, reason = "one digit after the point is shown")]
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// Shows how fast so many bytes were read.
#[allow(clippy::cast_precision_loss, reason = "two digits after the point are shown")]
pub(crate) fn speed(bytes: u64, time: Duration) -> String {
    let rate = bytes as f64 / time.as_secs_f64().max(1e-9);
    if rate < 1e8 { format!("{:.1} MB/s", rate / 1e6) } else { format!("{:.2} GB/s", rate / 1e9) }
}

/// Shows a time: `12 ms`, `3.4 s`.
pub(crate) fn time(time: Duration) -> String {
    match time.as_millis() {
        0..1000 => format!("{} ms", time.as_millis()),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// Shows a path as a shell takes it. What a terminal would not show as it is, is escaped as bash
/// and zsh read it.
pub(crate) fn shell(path: &Path) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-+=:@%,".contains(letter);
    match path.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.to_owned(),
        Some(text) if !text.chars().any(char::is_control) => {
            format!("'{}'", text.replace('\'', r"'\''"))
        }
        _ => {
            let bytes = path.as_os_str().as_encoded_bytes().iter();
            let shown = bytes.map(|byte| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(*byte)),
                b' '..=b'~' => char::from(*byte).to_string(),
                other => format!("\\x{other:02x}"),
            });
            format!("$'{}'", shown.collect::<String>())
        }
    }
}

/// Shows the last part of a path.
pub(crate) fn name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_path_for_one_word() {
        let shown = |text: &str| shell(Path::new(text));
        assert_eq!(shown("data/wal-1"), "data/wal-1");
        assert_eq!(shown("my log's"), r"'my log'\''s'");
        assert_eq!(shown("a\nb'\x1b[2J"), r"$'a\x0ab\'\x1b[2J'");
        assert_eq!(shown(""), "''");
    }
}
