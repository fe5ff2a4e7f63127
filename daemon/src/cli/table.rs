//! A table of text, and times as people read them.

use std::fmt::Write;

/// Columns as wide as their widest cell, two spaces apart.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut out = String::new();
    line(&mut out, &widths, heading.iter().copied());
    for row in rows {
        line(&mut out, &widths, row.iter().map(String::as_str));
    }
    out
}

fn line<'a>(out: &mut String, widths: &[usize], cells: impl Iterator<Item = &'a str>) {
    let mut text = String::new();
    for (width, cell) in widths.iter().zip(cells) {
        let _ = write!(text, "{cell:width$}  ");
    }
    out.push_str(text.trim_end());
    out.push('\n');
}

/// A number of seconds in its largest sensible unit: `6 d`, `23 h`, `5 min`, `59 s`.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// How far `end` is away: `in 6 d`, or `over since 5 min`.
pub(super) fn until(end: u64, now: u64) -> String {
    if end >= now {
        format!("in {}", span(end - now))
    } else {
        format!("over since {}", span(now - end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align() {
        let rows = [
            vec!["a".to_owned(), "long cell".to_owned()],
            vec!["longer".to_owned(), "b".to_owned()],
        ];
        let expected = "X       Y\na       long cell\nlonger  b\n";
        assert_eq!(table(&["X", "Y"], &rows), expected);
    }

    #[test]
    fn spans_use_the_largest_unit_that_keeps_two_digits() {
        for (seconds, text) in [
            (0, "0 s"),
            (119, "119 s"),
            (120, "2 min"),
            (7_200, "2 h"),
            (172_800, "2 d"),
        ] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(until(10, 20), "over since 10 s");
    }
}
