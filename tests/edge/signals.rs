//! How often an edge is told to stop makes no difference, unless a person at a terminal wants it at once.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::stand::{OPEN, Stand};
use crate::rig::{HOST, until};

#[tokio::test]
async fn sigterm_again_costs_an_edge_nothing_and_a_second_sigint_ends_it() {
    let mut stand = Stand::with(1, OPEN, "shutdown_timeout: 1h\n").await;
    let mut events = stand.line().await.unwrap();
    let ask = format!("GET /events HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    events.send(ask.as_bytes()).await.unwrap();
    events.read_to("\r\n\r\n").await.unwrap();
    until("the event stream", async || {
        (stand.upstream.streams() == 1).then_some(())
    })
    .await;
    let edge = Pid::from_raw(stand.edge.id().try_into().unwrap()).unwrap();
    let signal = |signal| kill_process(edge, signal).unwrap();
    for number in 0..5 {
        signal(Signal::TERM);
        until("the drain", async || {
            let page = stand.edge.page("/readyz").await?;
            page.contains("stopping").then_some(())
        })
        .await;
        stand.upstream.say(number);
        events.read_to(&format!("data: {number}")).await.unwrap();
    }
    // Two at once may be taken for one.
    let insist = async {
        loop {
            signal(Signal::INT);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = stand.edge.end(Signal::INT) => {}
        () = insist => {}
    }
}
