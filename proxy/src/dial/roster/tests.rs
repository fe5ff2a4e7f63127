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

fn secret(value: &str) -> Arc<Secret> {
    Arc::new(Secret::new(value.to_owned()))
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
    old.bound(&secret("one"));
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
        entry.bound(&secret("one"));
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
    a.bound(&secret("two"));
    assert!(roster.enter("c", 1).is_none() && !wants(&roster));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_cut_after_all_makes_one_too_many() {
    let roster = roster(1);
    let old = roster.enter("a", 1).unwrap();
    old.leaving();
    let new = roster.enter("a", 1).unwrap();
    old.bound(&secret("again"));
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
    entry.bound(&secret("one"));
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

#[test]
fn a_secret_is_taken_when_everything_that_there_is_stands_on_it() {
    let roster = roster(2);
    let (old, new) = (secret("old"), secret("new"));
    let verdict = || roster.judged(&new, None).now_or_never();
    assert_eq!(verdict(), None, "there is nothing");
    let first = roster.enter("a", 1).unwrap();
    first.bound(&old);
    assert_eq!(verdict(), None);
    let second = roster.enter("a", 1).unwrap();
    first.bound(&new);
    assert_eq!(verdict(), None, "nobody has said what the second stands on");
    second.bound(&old);
    second.leaving();
    assert_eq!(verdict(), None, "it still stands on the old one");
    let third = roster.enter("a", 1).unwrap();
    third.bound(&new);
    drop(second);
    assert_eq!(verdict(), Some(true));
    let again = roster.judged(&new, Some(true)).now_or_never();
    assert_eq!(again, None, "that is known");
}

#[test]
fn a_refusal_counts_until_the_edge_takes_the_secret_or_nothing_is_dialled_any_more() {
    let roster = roster(1);
    let (old, new) = (secret("old"), secret("new"));
    let verdict = || roster.judged(&new, None).now_or_never();
    let entry = roster.enter("a", 1).unwrap();
    entry.bound(&old);
    roster.refused(old.clone());
    assert_eq!(verdict(), None, "it is another one");
    roster.refused(new.clone());
    assert_eq!(verdict(), Some(false));
    entry.bound(&new);
    assert_eq!(verdict(), Some(true));
    // Live connections are left alone where the edge takes it no more, but another instance is dialled for.
    entry.instances(2);
    roster.refused(new.clone());
    assert_eq!(verdict(), Some(false));
    entry.instances(1);
    assert_eq!(verdict(), Some(true));
    entry.leaving();
    assert_eq!(verdict(), Some(false));
    roster.fed(&new);
    assert_eq!(verdict(), Some(false), "said again, it is no better");
    roster.fed(&old);
    assert_eq!(verdict(), Some(true), "another one was tried since");
}

#[tokio::test]
async fn a_verdict_is_waited_for() {
    let roster = roster(1);
    let new = secret("new");
    let entry = roster.enter("a", 1).unwrap();
    let (first, second) = tokio::join!(
        async {
            let first = roster.judged(&new, None).await;
            entry.bound(&new);
            (first, roster.judged(&new, Some(first)).await)
        },
        async {
            tokio::task::yield_now().await;
            roster.refused(new.clone());
        }
    );
    assert_eq!((first, second), ((false, true), ()));
}
