//! A text that is drawn over itself on a terminal, and printed anew elsewhere.

use std::fmt::Write;
use std::io::IsTerminal;

use process::Failure;

use crate::cli::output;

/// Where it is drawn.
pub(super) struct Screen {
    is_terminal: bool,
    /// What stands there.
    drawn: Option<String>,
}

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Size {
    columns: usize,
    rows: usize,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            is_terminal: std::io::stdout().is_terminal(),
            drawn: None,
        }
    }

    /// Draws `text`, which consists of whole lines.
    pub(super) fn draw(&mut self, text: &str) -> Result<(), Failure> {
        if !self.is_terminal {
            let between = if self.drawn.is_some() { "\n" } else { "" };
            self.drawn = Some(String::new());
            return output::text(&format!("{between}{text}"));
        }
        let size = size();
        let text = cut(text, size);
        let erase = self.drawn.as_deref().map(|drawn| erase(drawn, size));
        output::text(&format!("{}{text}", erase.unwrap_or_default()))?;
        self.drawn = Some(text);
        Ok(())
    }
}

/// Of the terminal on standard output; generous where it does not say.
fn size() -> Size {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let known = |count: u16, otherwise| match count {
        0 => otherwise,
        count => usize::from(count),
    };
    Size {
        columns: known(size.map_or(0, |size| size.ws_col), 80),
        rows: known(size.map_or(0, |size| size.ws_row), 24),
    }
}

/// Moves up over `drawn`, as far as the terminal goes, and clears from there (ECMA-48 8.3.22 CUU, 8.3.39 ED).
fn erase(drawn: &str, size: Size) -> String {
    let rows: usize = drawn.lines().map(|line| rows(line, size)).sum();
    match rows.min(size.rows.saturating_sub(1)) {
        0 => String::new(),
        up => format!("\x1b[{up}A\x1b[J"),
    }
}

/// As many lines as fit: what has left the screen at its top cannot be drawn over.
fn cut(text: &str, size: Size) -> String {
    let all = || text.lines().map(|line| rows(line, size));
    // The cursor stands in a row of its own.
    let room = size.rows.saturating_sub(1);
    if all().sum::<usize>() <= room {
        return text.to_owned();
    }
    let mut used = 1;
    let fitting = all().take_while(|rows| {
        used += rows;
        used <= room
    });
    let fitting = fitting.count();
    let mut out = String::new();
    for line in text.lines().take(fitting) {
        let _ = writeln!(out, "{line}");
    }
    let hidden = text.lines().count() - fitting;
    let _ = writeln!(out, "… {hidden} more lines");
    out
}

/// Rows that a line takes.
fn rows(line: &str, size: Size) -> usize {
    line.chars().count().div_ceil(size.columns).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        columns: 10,
        rows: 5,
    };

    #[test]
    fn what_is_drawn_over_is_as_high_as_it_stands_there() {
        assert_eq!(erase("", SIZE), "");
        assert_eq!(erase("a\nb\n", SIZE), "\x1b[2A\x1b[J");
        assert_eq!(erase("a\n\n0123456789a\n", SIZE), "\x1b[4A\x1b[J");
        // The window became lower: no further than to its top.
        assert_eq!(erase("a\nb\nc\nd\ne\nf\n", SIZE), "\x1b[4A\x1b[J");
    }

    #[test]
    fn no_more_is_drawn_than_fits_and_what_is_left_out_is_said() {
        assert_eq!(cut("a\nb\nc\nd\n", SIZE), "a\nb\nc\nd\n");
        assert_eq!(cut("a\nb\nc\nd\ne\n", SIZE), "a\nb\nc\n… 2 more lines\n");
        let wide = "a\n0123456789a\nc\nd\n";
        assert_eq!(cut(wide, SIZE), "a\n0123456789a\n… 2 more lines\n");
    }
}
