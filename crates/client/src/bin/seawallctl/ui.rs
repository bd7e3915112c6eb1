//! What a person sees: colour, numbers, tables, progress.

use std::fmt::Display;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};
use std::time::Duration;

use anstream::ColorChoice;
use indicatif::{ProgressBar, ProgressStyle};
use owo_colors::{OwoColorize, Style};

use crate::args::Colour;

pub(crate) struct Ui {
    pub(crate) out: BufWriter<Stdout>,
    out_colour: bool,
    err_colour: bool,
}

/// What a text means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Bad,
    Faint,
}

impl Ui {
    pub(crate) fn new(choice: Colour) -> Ui {
        let on = |seen: ColorChoice| match choice {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => seen != ColorChoice::Never,
        };
        Ui {
            out: BufWriter::with_capacity(1 << 16, io::stdout()),
            out_colour: on(anstream::AutoStream::choice(&io::stdout())),
            err_colour: on(anstream::AutoStream::choice(&io::stderr())),
        }
    }

    /// Whether a person reads the output.
    pub(crate) fn is_terminal(&self) -> bool {
        io::stdout().is_terminal()
    }

    pub(crate) fn line(&mut self, text: impl Display) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    /// Prints `value` as JSON, in one line.
    pub(crate) fn json(&mut self, value: &impl serde::Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.out, value).map_err(io::Error::from)?;
        self.out.write_all(b"\n")
    }

    /// Prints rows under names. Columns are as wide as their widest cell; the last one is not
    /// filled up.
    pub(crate) fn table(&mut self, names: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        let header: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let wide = |at: usize| {
            let cells = rows.iter().chain([&header]).map(|row| row[at].chars().count());
            cells.max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..names.len()).map(wide).collect();
        for (at, row) in [&header].into_iter().chain(rows).enumerate() {
            let cells = row.iter().zip(&widths).map(|(cell, width)| {
                let is_number = cell.chars().all(|letter| letter.is_ascii_digit() || letter == ',');
                if is_number { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            let line = line.trim_end();
            match at == 0 && self.out_colour {
                true => writeln!(self.out, "{}", line.style(Style::new().dimmed()))?,
                false => writeln!(self.out, "{line}")?,
            }
        }
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Tells a person something that is not part of the output. Failures have no other place to go.
    pub(crate) fn tell(&self, tone: Tone, text: impl Display) {
        let style = match tone {
            Tone::Bad => Style::new().red().bold(),
            Tone::Faint => Style::new().dimmed(),
        };
        let told = match self.err_colour {
            true => writeln!(io::stderr(), "{}", text.style(style)),
            false => writeln!(io::stderr(), "{text}"),
        };
        drop(told);
    }
}

/// A counter on the standard error. Without a terminal there, it is hidden. It is hidden, too, if
/// the results go to the same terminal and `results` says so.
pub(crate) fn counter(verb: &'static str, results: Results) -> ProgressBar {
    let disturbs = results == Results::Stream && io::stdout().is_terminal();
    if !io::stderr().is_terminal() || disturbs {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {prefix} {human_pos} {per_sec} {msg}");
    let bar = ProgressBar::new_spinner().with_prefix(verb);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// A bar for so many seconds.
pub(crate) fn clock(verb: &'static str, seconds: u64) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} s {msg}");
    let bar = ProgressBar::new(seconds).with_prefix(verb);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// When a command prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Results {
    /// All the time.
    Stream,
    AtEnd,
}

/// Shows a number with commas.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Shows a number of things: `1 record`, `1,234 records`.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{} {thing}{plural}", grouped(count))
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
