use super::*;

/// `2026-03-06T12:00-05:00`, in Unix seconds.
fn at(text: &str) -> u64 {
    seconds(text.parse().unwrap())
}

/// The next runs, as clocks of the zone show them.
fn runs(zone: &str, text: &str, after: &str, count: usize) -> Vec<String> {
    let calendar = Calendar::of(zone).unwrap();
    let schedule: Schedule = text.parse().unwrap();
    let mut last = at(after);
    let mut found = Vec::new();
    for _ in 0..count {
        last = schedule.next(&calendar, last).unwrap();
        let zoned = instant(last).to_zoned(calendar.zone.clone());
        found.push(zoned.strftime("%a %m-%d %H:%M%z").to_string());
    }
    found
}

fn refused(text: &str) -> String {
    text.parse::<Schedule>().unwrap_err().to_string()
}

/// F36.
#[test]
fn a_time_that_the_clock_leaves_out_runs_at_the_change_and_one_that_it_repeats_runs_once() {
    let (york, howe, berlin) = ("America/New_York", "Australia/Lord_Howe", "Europe/Berlin");
    let gap = "2026-03-06T12:00:00-05:00";
    assert_eq!(
        runs(york, "30 2 * * *", gap, 3),
        [
            "Sat 03-07 02:30-0500",
            "Sun 03-08 03:00-0400",
            "Mon 03-09 02:30-0400"
        ]
    );
    assert_eq!(
        runs(york, "*/30 * * * *", "2026-03-08T01:15:00-05:00", 4),
        [
            "Sun 03-08 01:30-0500",
            "Sun 03-08 03:00-0400",
            "Sun 03-08 03:30-0400",
            "Sun 03-08 04:00-0400"
        ]
    );
    let fold = "2026-10-31T12:00:00-04:00";
    assert_eq!(
        runs(york, "30 1 * * *", fold, 2),
        ["Sun 11-01 01:30-0400", "Mon 11-02 01:30-0500"]
    );
    assert_eq!(
        runs(york, "0 * * * *", "2026-11-01T00:15:00-04:00", 3),
        [
            "Sun 11-01 01:00-0400",
            "Sun 11-01 02:00-0500",
            "Sun 11-01 03:00-0500"
        ]
    );
    assert_eq!(
        runs(berlin, "30 2 * * *", "2026-10-24T12:00:00+02:00", 2),
        ["Sun 10-25 02:30+0200", "Mon 10-26 02:30+0100"]
    );
    // Half an hour is left out, and half an hour comes twice.
    assert_eq!(
        runs(howe, "15 2 * * *", "2026-10-03T12:00:00+10:30", 2),
        ["Sun 10-04 02:30+1100", "Mon 10-05 02:15+1100"]
    );
    assert_eq!(
        runs(howe, "45 1 * * *", "2026-04-04T12:00:00+11:00", 2),
        ["Sun 04-05 01:45+1100", "Mon 04-06 01:45+1030"]
    );
}

#[test]
fn fields_mean_what_posix_says() {
    let after = "2026-11-20T00:00:00Z";
    let utc = |text: &str, count| runs("UTC", text, after, count);
    for monday in ["0 3 * * 1", "0 3 * * MON", "0 3 * * mon"] {
        assert_eq!(utc(monday, 1), ["Mon 11-23 03:00+0000"], "{monday}");
    }
    for sunday in ["0 3 * * 0", "0 3 * * 7"] {
        assert_eq!(utc(sunday, 1), ["Sun 11-22 03:00+0000"], "{sunday}");
    }
    assert_eq!(
        utc("0 3 13 * FRI", 4),
        [
            "Fri 11-20 03:00+0000",
            "Fri 11-27 03:00+0000",
            "Fri 12-04 03:00+0000",
            "Fri 12-11 03:00+0000"
        ]
    );
    assert_eq!(
        utc("0 3 13 * FRI", 5)[4],
        "Sun 12-13 03:00+0000",
        "either of the two days"
    );
    assert_eq!(utc("0 3 29 2 *", 1), ["Tue 02-29 03:00+0000"]);
    assert_eq!(
        utc("0 3 31 * *", 2),
        ["Thu 12-31 03:00+0000", "Sun 01-31 03:00+0000"]
    );
    assert_eq!(
        utc("0 22-23,0-1 * * 1-2", 3),
        [
            "Mon 11-23 00:00+0000",
            "Mon 11-23 01:00+0000",
            "Mon 11-23 22:00+0000"
        ]
    );
    assert_eq!(
        utc("5-20/10 8 * JAN-MAR *", 2),
        ["Fri 01-01 08:05+0000", "Fri 01-01 08:15+0000"]
    );
    assert_eq!(
        utc("0 0 * * *", 1),
        ["Sat 11-21 00:00+0000"],
        "after, not at"
    );
}

#[test]
fn what_could_be_read_in_two_ways_or_never_runs_is_refused() {
    for (text, said) in [
        ("0 3 * *", "it has 4 fields"),
        ("0 0 3 * * *", "it has 6 fields"),
        ("@daily", "it has 1 fields"),
        (
            "0 22-2 * * *",
            "the hour is \"22-2\": a range begins with its lower end; write 22-23,0-2",
        ),
        (
            "60 3 * * *",
            "the minute is \"60\": write numbers from 0 to 59",
        ),
        (
            "0 3 * * 8",
            "the day of the week is \"8\": write numbers from 0 to 7",
        ),
        ("0 3 0 * *", "the day of the month is \"0\""),
        ("0 3 * 13 *", "the month is \"13\""),
        ("+5 3 * * *", "the minute is \"+5\""),
        ("*/0 3 * * *", "a step is a number from 1 on"),
        ("5/10 3 * * *", "a step wants a range"),
        ("0 3 30 2 *", "it has no run within five years"),
    ] {
        let refused = refused(text);
        assert!(refused.contains(said), "{text}: {refused}");
    }
    assert_eq!(
        Calendar::of("Europe/Berln").unwrap_err().to_string(),
        "\"Europe/Berln\" is no time zone of the IANA database, such as Europe/Berlin or UTC"
    );
}

/// Zone, window, frozen days, from when on, and when it opens.
const OPENINGS: &str = "\
UTC           |                     |                       | 2026-11-20T12:00:00Z | 2026-11-20T12:00:00Z
UTC           | 09:00-17:00         |                       | 2026-11-20T08:59:59Z | 2026-11-20T09:00:00Z
UTC           | 09:00-17:00         |                       | 2026-11-20T17:00:00Z | 2026-11-21T09:00:00Z
UTC           | MON-FRI 09:00-17:00 |                       | 2026-11-20T17:00:00Z | 2026-11-23T09:00:00Z
UTC           | SAT,SUN 22:00-24:00 |                       | 2026-11-20T23:30:00Z | 2026-11-21T22:00:00Z
UTC           | MON-FRI 09:00-17:00 | 2026-11-23            | 2026-11-20T17:00:00Z | 2026-11-24T09:00:00Z
UTC           |                     | 2026-12-24 2026-12-25 | 2026-12-24T12:00:00Z | 2026-12-26T00:00:00Z
Europe/Berlin |                     | 2026-12-24            | 2026-12-23T23:00:00Z | 2026-12-24T23:00:00Z
Europe/Berlin | 09:00-17:00         |                       | 2026-07-01T06:00:00Z | 2026-07-01T07:00:00Z
Europe/Berlin | 02:30-05:00         |                       | 2026-03-29T00:30:00Z | 2026-03-29T01:00:00Z";

#[test]
fn a_calendar_opens_at_the_first_second_that_window_and_frozen_days_leave() {
    for line in OPENINGS.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let &[zone, window, frozen, from, opens] = cells.as_slice() else {
            panic!("{line}");
        };
        let window = (!window.is_empty()).then(|| window.parse().unwrap());
        let frozen = frozen.split_whitespace().map(|day| day.parse().unwrap());
        let calendar = Calendar::of(zone)
            .unwrap()
            .limited(window, frozen.collect());
        assert_eq!(calendar.opens(at(from)), Some(at(opens)), "{line}");
        assert!(calendar.is_open(at(opens)), "{line}");
        assert_eq!(calendar.is_open(at(from)), from == opens, "{line}");
    }
    for wrong in [
        "9-17",
        "17:00-09:00",
        "09:00-09:00",
        "MON 25:00-26:00",
        "FRI-MON 09:00-10:00",
        "XXX 09:00-10:00",
    ] {
        assert_eq!(
            wrong.parse::<Window>(),
            Err(ScheduleError::Window),
            "{wrong}"
        );
    }
}
