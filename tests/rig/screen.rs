//! A terminal as far as our programs use one: lines, `CUU` (cursor up) and `ED` (erase to the end), ECMA-48 8.3.22 and
//! 8.3.39. Anything else in their place fails the test.

/// What stood on it before each erasure, and at the end. `rows` makes rows of a text between two control sequences.
pub(crate) fn states(written: &str, rows: impl Fn(&str) -> Vec<String>) -> Vec<Vec<String>> {
    let mut screen = Screen::default();
    let mut states = Vec::new();
    let mut parts = written.split('\x1b');
    screen.print(rows(parts.next().unwrap_or_default()));
    for part in parts {
        let part = part.strip_prefix('[').expect("a control sequence");
        let end = part.find(|c: char| c.is_ascii_alphabetic()).unwrap();
        let (parameter, rest) = part.split_at(end);
        let (sequence, text) = rest.split_at(1);
        match sequence {
            "A" => {
                states.push(screen.rows.clone());
                let up: usize = parameter.parse().unwrap();
                screen.row = screen.row.checked_sub(up).expect("not above the top");
            }
            "J" => screen.rows.truncate(screen.row),
            other => panic!("an unknown control sequence {other:?}"),
        }
        screen.print(rows(text));
    }
    states.push(screen.rows);
    states
}

#[derive(Default)]
struct Screen {
    rows: Vec<String>,
    row: usize,
}

impl Screen {
    fn print(&mut self, rows: Vec<String>) {
        for row in rows {
            self.rows.truncate(self.row);
            self.rows.push(row);
            self.row += 1;
        }
    }
}
