use futures_util::FutureExt;

use super::*;

fn roster(each: usize) -> Roster {
    Roster(Arc::new(Shared {
        edge: "api.edge.example".to_owned(),
        each,
        state: Mutex::default(),
        changed: Notify::new(),
    }))
}

fn wants(roster: &Roster) -> bool {
    roster.wanting().now_or_never().is_some()
}

#[test]
fn every_instance_gets_its_number_and_no_more() {
    let roster = roster(2);
    assert!(wants(&roster));
    let first = roster.enter("a", 1).unwrap();
    assert!(wants(&roster));
    let _second = roster.enter("a", 1).unwrap();
    assert!(!wants(&roster));
    first.instances(2);
    assert!(wants(&roster), "to the other instance");
    assert!(roster.enter("a", 2).is_none(), "exceeds the number");
    let _third = roster.enter("b", 2).unwrap();
    let _fourth = roster.enter("b", 2).unwrap();
    assert!(!wants(&roster));
    drop(first);
    assert!(wants(&roster));
}

#[test]
fn a_connection_that_leaves_is_replaced_before_it_goes() {
    let roster = roster(1);
    let old = roster.enter("a", 1).unwrap();
    old.bound("one");
    assert!(!wants(&roster));
    old.leaving();
    assert!(wants(&roster));
    let _new = roster.enter("a", 1).unwrap();
    assert!(!wants(&roster));
    assert_eq!(roster.reason(), None, "the old one still serves");
}

#[tokio::test(start_paused = true)]
async fn what_exceeds_the_number_goes_after_a_while_and_nothing_else() {
    let roster = roster(1);
    let [a, b, c] = ["a", "b", "c"].map(|name| {
        let entry = roster.enter(name, 3).unwrap();
        entry.bound("one");
        entry
    });
    let trimmed = async || {
        let trimming = tokio::time::timeout(2 * SETTLE, roster.trim());
        assert!(trimming.await.is_err(), "it goes on");
        [&a, &b, &c].map(|entry| entry.surplus().is_cancelled())
    };
    assert_eq!(trimmed().await, [false; 3]);
    // An edge has gone that says nothing, and the others say so one after the other.
    a.instances(2);
    c.instances(2);
    assert_eq!(trimmed().await, [false, true, false]);
    assert!(!wants(&roster));
    // For a moment there seemed to be one alone.
    c.instances(1);
    c.instances(2);
    assert_eq!(trimmed().await, [false, true, false]);
    c.instances(1);
    assert_eq!(trimmed().await, [true, true, false]);
    a.bound("two");
    assert!(roster.enter("c", 1).is_none() && !wants(&roster));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_cut_after_all_makes_one_too_many() {
    let roster = roster(1);
    let old = roster.enter("a", 1).unwrap();
    old.leaving();
    let new = roster.enter("a", 1).unwrap();
    old.bound("again");
    let trimming = tokio::time::timeout(2 * SETTLE, roster.trim());
    assert!(trimming.await.is_err(), "it goes on");
    assert_eq!(
        [old, new].map(|entry| entry.surplus().is_cancelled()),
        [false, true]
    );
}

#[test]
fn it_says_what_is_missing() {
    let roster = roster(2);
    assert!(roster.failed("nobody listens"));
    assert!(!roster.failed("nobody listens"), "said already");
    let reason = roster.reason().unwrap();
    assert!(
        reason.contains("api.edge.example: nobody listens"),
        "{reason}"
    );
    let entry = roster.enter("a", 2).unwrap();
    assert!(roster.reason().is_some(), "not bound yet");
    entry.bound("one");
    assert_eq!(roster.reason(), None);
    let notes = roster.notes();
    assert!(notes[0].contains("instance a: 1 of 2"), "{notes:?}");
    assert!(notes[1].contains("2 of 2 instances"), "{notes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_soon_is_noted_until_it_is_asked_about() {
    let roster = roster(1);
    drop(roster.enter("a", 1).unwrap());
    assert!(roster.take_short_lived());
    assert!(!roster.take_short_lived());
    let entry = roster.enter("a", 1).unwrap();
    tokio::time::advance(SHORT).await;
    drop(entry);
    assert!(!roster.take_short_lived());
}

#[tokio::test(start_paused = true)]
async fn of_an_instances_connections_the_one_that_was_heard_last_counts() {
    let roster = roster(2);
    let [old, new] = [(); 2].map(|()| roster.enter("a", 2).unwrap());
    tokio::time::advance(SHORT).await;
    let gone = roster.enter("b", 2).unwrap();
    tokio::time::advance(SHORT).await;
    new.instances(1);
    let trimming = tokio::time::timeout(2 * SETTLE, roster.trim());
    assert!(trimming.await.is_err(), "it goes on");
    assert_eq!(
        [old, new, gone].map(|entry| entry.surplus().is_cancelled()),
        [false, false, true]
    );
}
