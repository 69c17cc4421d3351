//! A report as a page: one file that opens in any browser, offline.
//!
//! The page holds the same data as the JSON view, and a script that draws it. Names come from models:
//! in the data no character can end the script element that they are in, and the script sets text as
//! text only.

use serde::Serialize;

use super::{PointReport, Report, Sweep};

const CHART: &str = include_str!("assets/chart.umd.min.js");
const LICENCES: &str = include_str!("assets/LICENSES.md");
const SCRIPT: &str = include_str!("assets/page.js");
const STYLE: &str = include_str!("assets/page.css");

/// What a page shows.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Page<'a> {
    /// One compression.
    Compression {
        /// Its report.
        report: &'a Report,
    },
    /// Several ratios.
    Sweep {
        /// The front.
        sweep: &'a Sweep,
        /// The points' reports.
        reports: &'a [PointReport],
    },
}

/// A page with all that it needs.
#[must_use]
pub fn page(page: &Page<'_>) -> String {
    let title = match page {
        Page::Compression { report } => format!("{}, compressed", report.model.name),
        Page::Sweep { sweep, .. } => format!("{}, a sweep", sweep.model.name),
    };
    // Plain structs of numbers and strings always serialize.
    let data = in_script(&serde_json::to_string(page).unwrap_or_default());
    let (title, licences) = (in_text(&title), LICENCES.replace("--", "- -"));
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src \
         'unsafe-inline'; style-src 'unsafe-inline'; img-src data:\">\n\
         <title>{title}</title>\n<link rel=\"icon\" href=\"data:,\">\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<main><noscript>This report needs JavaScript; its figures are in the \
         element `data` as JSON.</noscript></main>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n\
         <!--\n{licences}-->\n<script>{CHART}</script>\n<script>\n{SCRIPT}</script>\n</body>\n\
         </html>\n"
    )
}

/// JSON that may stand in a script element: what could end the element, or a line of an old script, is
/// escaped. Such characters stand in strings only.
fn in_script(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                text.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            _ => text.push(character),
        }
    }
    text
}

/// Text that may stand between tags.
fn in_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
