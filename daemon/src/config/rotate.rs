//! What rotates by itself, and when it may.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use jiff::civil::Date;
use pki::Fingerprint;
use process::Failure;

use super::raw::RawRotate;
use super::{Connector, Provider, parse_duration, write_duration};
use crate::schedule::{Calendar, Schedule, ScheduleError, Window};

/// More often would be a mistake of the unit.
const SHORTEST: Duration = Duration::from_secs(3600);
/// Ten years.
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);
/// Days in one range of `freeze`; a slip of the year is none.
const LONGEST_FREEZE: usize = 366;

/// The rotations of one tunnel that nobody orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotateConfig {
    /// The server certificate, besides what its own dates want.
    pub certificate: When,
    /// The CA.
    pub ca: When,
    /// The tunnel token.
    pub token: When,
    /// The shared secret.
    pub secret: When,
    /// When one may begin.
    pub calendar: Calendar,
    /// As the file has them.
    shown: Shown,
}

/// The kinds that rotate by a schedule, as the file names them.
pub const KEYS: [&str; 4] = ["certificate", "ca", "token", "secret"];

/// What the calendar was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    window: Option<Window>,
    freeze: Vec<String>,
    timezone: String,
}

/// When one kind rotates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// As its dates want: a server certificate after a day, a CA at half of its life.
    Auto,
    /// When somebody orders it.
    Off,
    /// This long after the last time.
    Every(Duration),
    /// By a clock.
    At(Schedule),
}

impl RotateConfig {
    /// The kinds under their keys.
    pub fn kinds(&self) -> [(&'static str, &When); 4] {
        KEYS.map(|key| (key, self.when(key)))
    }

    /// When the kind with this key rotates.
    pub fn when(&self, key: &str) -> &When {
        match key {
            "ca" => &self.ca,
            "token" => &self.token,
            "secret" => &self.secret,
            _ => &self.certificate,
        }
    }

    /// The next runs of what runs by a clock, at most `count` each, in Unix seconds: as the calendar lets them begin.
    pub fn coming(&self, now: u64, count: usize) -> Vec<(&'static str, Vec<u64>)> {
        let clocked = self
            .kinds()
            .into_iter()
            .filter_map(|(key, when)| match when {
                When::At(schedule) => Some((key, schedule)),
                _ => None,
            });
        let runs = |schedule: &Schedule| {
            let mut due = now;
            let mut runs: Vec<u64> = Vec::new();
            while runs.len() < count
                && let Some(next) = schedule.next(&self.calendar, due)
                && let Some(opens) = self.calendar.opens(next)
            {
                // Runs that fall into closed hours are one run.
                due = next.max(opens);
                runs.push(opens);
            }
            runs
        };
        clocked
            .map(|(key, schedule)| (key, runs(schedule)))
            .collect()
    }

    /// As a file has it, indented by `indent`.
    pub(super) fn write(&self, out: &mut String, indent: &str) -> fmt::Result {
        use fmt::Write;
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        writeln!(out, "{indent}rotate:")?;
        for (key, when) in self.kinds() {
            writeln!(out, "{indent}  {key}: {}", quoted(&when.to_string()))?;
        }
        match &self.shown.window {
            Some(window) => writeln!(out, "{indent}  window: {}", quoted(&window.to_string()))?,
            None => writeln!(out, "{indent}  window: null # any hour")?,
        }
        writeln!(out, "{indent}  freeze: {:?}", self.shown.freeze)?;
        writeln!(out, "{indent}  timezone: {}", quoted(&self.shown.timezone))
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Every(pause) => f.write_str(&write_duration(*pause)),
            Self::At(schedule) => f.write_str(schedule.text()),
        }
    }
}

pub(super) fn convert(
    key: &impl Fn(&str) -> String,
    name: &str,
    (provider, connector, restarts): (&Provider, Connector, bool),
    raw: RawRotate,
) -> Result<RotateConfig, Failure> {
    let key = |rest: &str| key(&format!("rotate.{rest}"));
    let asked = matches!(provider, Provider::TunnelsApi { .. });
    let restarted = asked && (connector != Connector::External || restarts);
    let token = when(&key("token"), raw.token.as_deref(), &[])?;
    let secret = when(&key("secret"), raw.secret.as_deref(), &[])?;
    let ca = when(&key("ca"), raw.ca.as_deref(), &["auto"])?;
    for (rest, found, can, why) in [
        (
            "token",
            &token,
            restarted,
            "nobody restarts what runs with the one before; write provider: tunnels_api, and connector: cloudflared or builtin, or restart: beside connector: external, or off",
        ),
        (
            "secret",
            &secret,
            asked && connector == Connector::Builtin,
            "only a keyward-edge has shared secrets; write provider: tunnels_api and connector: builtin, or off",
        ),
        (
            "ca",
            &ca,
            asked,
            "verifiers are told by hand; write provider: tunnels_api, or off",
        ),
    ] {
        if !can && found.as_ref().is_some_and(|found| *found != When::Off) {
            return Err(
                Failure::config(format!("{} cannot rotate by itself", key(rest)))
                    .cause(why)
                    .next("keyward rotate does it when you order it"),
            );
        }
    }
    let weekly = |can: bool, salt: &str| {
        if can {
            weekly(name, salt)
        } else {
            Ok(When::Off)
        }
    };
    let (calendar, shown) = calendar(&key, raw.window, raw.freeze, raw.timezone)?;
    Ok(RotateConfig {
        certificate: when(&key("certificate"), raw.certificate.as_deref(), &["auto"])?
            .unwrap_or(When::Auto),
        ca: ca.unwrap_or(if asked { When::Auto } else { When::Off }),
        token: token.map_or_else(|| weekly(restarted, "token"), Ok)?,
        secret: secret.map_or_else(
            || weekly(asked && connector == Connector::Builtin, "secret"),
            Ok,
        )?,
        calendar,
        shown,
    })
}

/// Once a week in working hours, at a minute that the name says, so that many tunnels do not move at once.
fn weekly(name: &str, salt: &str) -> Result<When, Failure> {
    let digest = Fingerprint::of(format!("{salt}\n{name}").as_bytes()).to_string();
    let part = |from: usize| {
        let digits = digest.get(from..from + 4).unwrap_or_default();
        u16::from_str_radix(digits, 16).unwrap_or_default()
    };
    let (minute, hour, day) = (part(0) % 60, 10 + part(4) % 6, 1 + part(8) % 4);
    let schedule = format!("{minute} {hour} * * {day}").parse();
    schedule.map(When::At).map_err(|error: ScheduleError| {
        Failure::internal("the default schedule cannot be read").caused_by(&error)
    })
}

fn when(key: &str, text: Option<&str>, words: &[&str]) -> Result<Option<When>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let wrong = || Failure::config(format!("{key} is {text:?}"));
    Ok(Some(match text {
        "off" => When::Off,
        "auto" if words.contains(&"auto") => When::Auto,
        _ if text.contains(' ') => When::At(
            text.parse()
                .map_err(|error: ScheduleError| wrong().next(error.to_string()))?,
        ),
        _ => {
            let pause = parse_duration(text).map_err(|error| {
                wrong().cause(error.to_string()).next(
                    "write off, five fields such as \"0 10 * * 1\", or the time from one to the next such as 30d",
                )
            })?;
            if pause < SHORTEST || pause > LONGEST {
                return Err(wrong().next(format!(
                    "write something from {} to {}",
                    write_duration(SHORTEST),
                    write_duration(LONGEST)
                )));
            }
            When::Every(pause)
        }
    }))
}

fn calendar(
    key: &impl Fn(&str) -> String,
    window: Option<String>,
    freeze: Vec<String>,
    timezone: Option<String>,
) -> Result<(Calendar, Shown), Failure> {
    let refused = |rest: &str, text: &str, error: &ScheduleError| {
        Failure::config(format!("{} is {text:?}", key(rest))).next(error.to_string())
    };
    let timezone = timezone.unwrap_or_else(|| "UTC".to_owned());
    let calendar =
        Calendar::of(&timezone).map_err(|error| refused("timezone", &timezone, &error))?;
    let window = window
        .map(|text| {
            text.parse()
                .map_err(|error| refused("window", &text, &error))
        })
        .transpose()?;
    let mut frozen = BTreeSet::new();
    for text in &freeze {
        let days = days(text).ok_or_else(|| {
            Failure::config(format!("{} has {text:?}", key("freeze")))
                .next("write days as 2026-12-24, or 2026-12-24..2027-01-02 for at most a year")
        })?;
        frozen.extend(days);
    }
    let shown = Shown {
        window: window.clone(),
        freeze,
        timezone,
    };
    Ok((calendar.limited(window, frozen), shown))
}

fn days(text: &str) -> Option<Vec<Date>> {
    let (from, to) = text.split_once("..").unwrap_or((text, text));
    let day = |text: &str| text.parse::<Date>().ok().filter(|_| text.len() == 10);
    let (from, to) = (day(from)?, day(to)?);
    let each = from.series(jiff::Span::new().days(1));
    let days: Vec<Date> = each
        .take(LONGEST_FREEZE + 1)
        .take_while(|day| *day <= to)
        .collect();
    (!days.is_empty() && days.len() <= LONGEST_FREEZE).then_some(days)
}
