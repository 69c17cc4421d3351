//! Plain tables and figures for a person to read.

use std::fmt::Write;

/// Escape sequences, or nothing.
#[derive(Clone, Copy)]
pub struct Style(pub bool);

impl Style {
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    pub fn warning(self, text: &str) -> String {
        self.wrap("33", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Columns of cells; a column is as wide as its widest cell.
pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<(Vec<String>, bool)>,
}

impl Table {
    /// Titles of the columns; those that begin with `>` are set to the right.
    pub fn new(header: &[&'static str]) -> Self {
        Self { header: header.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push((cells, false));
    }

    /// A row of less weight.
    pub fn dim_row(&mut self, cells: Vec<String>) {
        self.rows.push((cells, true));
    }

    pub fn write(&self, out: &mut String, style: Style) {
        let titles: Vec<String> =
            self.header.iter().map(|t| t.trim_start_matches('>').to_owned()).collect();
        let mut widths: Vec<usize> = titles.iter().map(|t| width(t)).collect();
        for (cells, _) in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(cells) {
                *widest = (*widest).max(width(cell));
            }
        }
        if titles.iter().any(|t| !t.is_empty()) {
            let _ = writeln!(out, "{}", style.bold(&self.line(&titles, &widths)));
        }
        for (cells, dim) in &self.rows {
            let line = self.line(cells, &widths);
            let _ = writeln!(out, "{}", if *dim { style.dim(&line) } else { line });
        }
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for ((cell, &column), title) in cells.iter().zip(widths).zip(&self.header) {
            let gap = " ".repeat(column.saturating_sub(width(cell)));
            let (before, after) =
                if title.starts_with('>') { (gap, String::new()) } else { (String::new(), gap) };
            let _ = write!(line, "{before}{cell}{after}  ");
        }
        line.trim_end().to_owned()
    }
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A count, or `-` where it isn't known.
pub fn maybe_count(value: Option<u64>) -> String {
    value.map_or_else(|| "-".to_owned(), count)
}

/// Three digits that count, without an exponent where that stays short.
pub fn figure(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        a if !a.is_finite() => value.to_string(),
        a if !(1e-3..1e6).contains(&a) => format!("{value:.2e}"),
        a if a >= 100.0 => format!("{value:.0}"),
        a if a >= 10.0 => format!("{value:.1}"),
        a if a >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// How many times smaller `after` is.
pub fn factor(before: f64, after: f64) -> String {
    if before > 0.0 && after > 0.0 { format!("{:.2}x", before / after) } else { "-".to_owned() }
}

/// `[32, 1, 3, 3]` as `32x1x3x3`.
pub fn shape(dims: &[usize]) -> String {
    if dims.is_empty() {
        return "scalar".to_owned();
    }
    dims.iter().map(usize::to_string).collect::<Vec<_>>().join("x")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0.0, 0.5, 3.14159, 31.4159, 314.159, 1e-7, f64::NAN].map(figure),
            ["0", "0.500", "3.14", "31.4", "314", "1.00e-7", "NaN"]
        );
        assert_eq!(factor(10.0, 4.0), "2.50x");
        assert_eq!(factor(10.0, 0.0), "-");
        assert_eq!(shape(&[]), "scalar");
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(&["name", ">n"]);
        table.row(vec!["a".into(), "1".into()]);
        table.dim_row(vec!["long name".into(), "100".into()]);
        let mut text = String::new();
        table.write(&mut text, Style(false));
        assert_eq!(text, "name         n\na            1\nlong name  100\n");
    }
}
