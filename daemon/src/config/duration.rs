//! Durations as people write them: `30s`, `24h`, `7d`, `1h30m`.

use std::time::Duration;

use thiserror::Error;

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DurationError {
    /// Not a list of numbers with units.
    #[error("write numbers with units, such as 30s, 24h, 7d or 1h30m")]
    Malformed,
    /// A number without a unit.
    #[error("a number needs a unit, such as 30s, 24h or 7d")]
    NoUnit,
    /// More than 2^64 seconds.
    #[error("too long")]
    Overflow,
}

/// Reads whole numbers with the units `ms`, `s`, `m`, `h`, `d`, `w`, as often as wanted. `0` needs
/// no unit, since the stock tools write it so.
///
/// # Errors
///
/// Anything else.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(DurationError::Malformed);
    }
    let mut sum = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len()
            - tail
                .trim_start_matches(|c: char| c.is_ascii_alphabetic())
                .len();
        let (unit, tail) = tail.split_at(letters);
        if number.is_empty() {
            return Err(DurationError::Malformed);
        }
        let number: u64 = number.parse().map_err(|_| DurationError::Overflow)?;
        let part = match unit {
            "" if tail.is_empty() => return Err(DurationError::NoUnit),
            "ms" => Some(Duration::from_millis(number)),
            "s" => Some(Duration::from_secs(number)),
            "m" => seconds(number, 60),
            "h" => seconds(number, 3600),
            "d" => seconds(number, 86_400),
            "w" => seconds(number, 604_800),
            _ => return Err(DurationError::Malformed),
        };
        sum = part
            .and_then(|part| sum.checked_add(part))
            .ok_or(DurationError::Overflow)?;
        rest = tail;
    }
    Ok(sum)
}

fn seconds(number: u64, each: u64) -> Option<Duration> {
    number.checked_mul(each).map(Duration::from_secs)
}

/// Writes a duration so that [`parse_duration`] reads it again, in the largest unit that fits.
pub fn write_duration(duration: Duration) -> String {
    let milliseconds = duration.subsec_millis();
    let seconds = duration.as_secs();
    if milliseconds != 0 {
        return match seconds {
            0 => format!("{milliseconds}ms"),
            _ => format!("{seconds}s{milliseconds}ms"),
        };
    }
    match seconds {
        0 => "0s".to_owned(),
        days if days % 86_400 == 0 => format!("{}d", days / 86_400),
        hours if hours % 3600 == 0 => format!("{}h", hours / 3600),
        minutes if minutes % 60 == 0 => format!("{}m", minutes / 60),
        other => format!("{other}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_read_with_its_unit_and_written_back() {
        for (text, seconds, back) in [
            ("30s", 30, "30s"),
            ("24h", 86_400, "1d"),
            ("7d", 604_800, "7d"),
            ("2160h", 7_776_000, "90d"),
            ("2160h0m0s", 7_776_000, "90d"),
            ("1h30m", 5400, "90m"),
            ("1w", 604_800, "7d"),
            ("0", 0, "0s"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration.as_secs(), seconds, "{text}");
            assert_eq!(write_duration(duration), back);
            assert_eq!(parse_duration(back).unwrap(), duration);
        }
        assert_eq!(write_duration(Duration::from_millis(1500)), "1s500ms");
    }

    #[test]
    fn what_has_no_unit_or_an_unknown_one_is_refused() {
        for (text, error) in [
            ("7", DurationError::NoUnit),
            ("1h30", DurationError::NoUnit),
            ("", DurationError::Malformed),
            ("d", DurationError::Malformed),
            ("7y", DurationError::Malformed),
            ("-1d", DurationError::Malformed),
            ("1.5h", DurationError::Malformed),
            ("7 d", DurationError::Malformed),
            ("99999999999999999999s", DurationError::Overflow),
            ("9999999999999999999w", DurationError::Overflow),
        ] {
            assert_eq!(parse_duration(text), Err(error), "{text:?}");
        }
    }
}
