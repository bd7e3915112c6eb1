//! What the pages have in common: one file, no network, the same looks.

use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use plotters::style::RGBColor;

use crate::failure::{Failure, Outcome};

pub(crate) const BLUE: RGBColor = RGBColor(31, 99, 173);
pub(crate) const GREEN: RGBColor = RGBColor(46, 139, 87);
pub(crate) const ORANGE: RGBColor = RGBColor(217, 119, 6);
pub(crate) const RED: RGBColor = RGBColor(200, 40, 40);
pub(crate) const GREY: RGBColor = RGBColor(120, 128, 140);
pub(crate) const LINE: RGBColor = RGBColor(226, 230, 236);
pub(crate) const TEXT: RGBColor = RGBColor(60, 66, 76);

const STYLE: &str = include_str!("html.css");

/// Makes a page of its body. A script may follow it.
pub(crate) fn page(title: &str, body: &str, script: &str) -> String {
    let title = escape(title);
    format!(
        "{BEGIN}\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"icon\" href=\"data:,\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<main>\n{body}</main>\n<script>\n{script}</script>\n</body>\n</html>\n"
    )
}

const BEGIN: &str = "<!doctype html>";

/// Refuses a file that holds something else than a page or its begin: it would be overwritten.
pub(crate) fn refuse_other(path: &Path) -> Outcome<()> {
    let mut begin = Vec::new();
    if let Ok(file) = File::open(path) {
        let read = file.take(BEGIN.len() as u64).read_to_end(&mut begin);
        read.map_err(|error| Failure::io(&error, "read", path))?;
    }
    if BEGIN.as_bytes().starts_with(&begin) {
        return Ok(());
    }
    let what = "the file is there and is no page: it is not overwritten";
    Err(Failure::refused(what).at(path, None).remedy("name another file").into())
}

/// Writes a page.
pub(crate) fn write(path: &Path, page: &str) -> Outcome<()> {
    refuse_other(path)?;
    fs::write(path, page).map_err(|error| Failure::io(&error, "write", path))
}

/// Makes text safe within HTML, between tags and in attributes.
pub(crate) fn escape(text: impl Display) -> String {
    let mut safe = String::new();
    for letter in text.to_string().chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Makes a card with a large figure.
pub(crate) fn card(figure: &str, what: &str, remark: &str) -> String {
    format!(
        "<div class=\"card\"><b>{}</b><span>{}</span><small>{}</small></div>\n",
        escape(figure),
        escape(what),
        escape(remark)
    )
}

/// Puts a drawing and its caption into a frame.
pub(crate) fn figure(id: &str, title: &str, caption: &str, drawing: &str) -> String {
    let drawing = drawing.trim_start_matches("<?xml version=\"1.0\" encoding=\"UTF-8\"?>");
    format!(
        "<figure id=\"{id}\"><h2>{}</h2>\n{drawing}\n<figcaption>{}</figcaption></figure>\n",
        escape(title),
        escape(caption)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_cannot_become_a_tag() {
        assert_eq!(escape("<script>'\"&"), "&lt;script&gt;&#39;&quot;&amp;");
    }
}
