//! The tunnel at the other side, played by hand.

use super::*;
use crate::remote::{Answer, Call, Lane};
use crate::tunnels::{CallError, Refusal as Refused};

pub(super) fn tunnel(domain: &str, archived: bool) -> api::Tunnel {
    let value = serde_json::json!({
        "id": "tnl_1",
        "type": "tunnel",
        "display_name": null,
        "domain": domain,
        "created_at": "2026-01-01T00:00:00Z",
        "archived_at": archived.then_some("2026-01-02T00:00:00Z"),
    });
    serde_json::from_value(value).unwrap()
}

/// Answers the one call that is wanted.
fn answer(world: &World, engine: &mut Engine, result: Result<Answer, CallError>) {
    let mut asks = engine.take_asks();
    asks.retain(|ask| ask.lane == Lane::Tunnel);
    let ask = asks.pop().unwrap();
    assert_eq!((&*ask.tunnel_id, &ask.call), ("tnl_1", &Call::Tunnel));
    world.tell(engine, vec![Told { ask, result }]);
}

fn looks(engine: &mut Engine) -> usize {
    let asks = engine.take_asks();
    asks.iter().filter(|ask| ask.lane == Lane::Tunnel).count()
}

fn refused() -> CallError {
    CallError::Refused(Refused {
        status: 503,
        kind: api::ErrorKind::ApiError,
        message: Some("later".to_owned()),
        request_id: None,
    })
}

#[test]
fn nobody_is_called_for_a_tunnel_that_is_handled_by_hand() {
    let world = World::new();
    assert_eq!(world.start().take_asks(), []);
}

#[test]
fn the_tunnel_is_read_at_the_start_and_every_hour_and_one_call_is_under_way_at_most() {
    let mut world = World::remote("");
    let mut engine = world.start();
    assert_eq!(world.status().provider, "tunnels_api");
    answer(
        &world,
        &mut engine,
        Ok(Answer::Tunnel(tunnel("t.example.com", false))),
    );
    assert_eq!(world.status().alarms, Vec::<String>::new());
    world.pass(HOUR - 1);
    world.turn(&mut engine);
    assert_eq!(looks(&mut engine), 0);
    world.pass(1);
    world.turn(&mut engine);
    assert_eq!(looks(&mut engine), 1);
    world.pass(HOUR);
    world.turn(&mut engine);
    assert_eq!(
        looks(&mut engine),
        0,
        "nothing has been heard of the one before"
    );
}

#[test]
fn a_tunnel_that_is_archived_or_another_one_is_an_alarm_and_what_is_served_stays() {
    for (found, said) in [
        (
            tunnel("t.example.com", true),
            "the tunnel tnl_1 is archived",
        ),
        (
            tunnel("u.example.com", false),
            "the tunnel tnl_1 has the domain u.example.com, not t.example.com",
        ),
    ] {
        let world = World::remote("");
        let mut engine = world.start();
        let served = world.credential();
        answer(&world, &mut engine, Ok(Answer::Tunnel(found)));
        let alarms = world.status().alarms;
        assert!(
            alarms.iter().any(|alarm| alarm.starts_with(said)),
            "{alarms:?}"
        );
        assert_eq!(world.credential(), served);
    }
}

#[test]
fn a_remote_that_does_not_answer_is_an_alarm_and_asked_again_ever_more_rarely() {
    let mut world = World::remote("");
    let mut engine = world.start();
    for pause in [1, 2, 4, 8] {
        answer(&world, &mut engine, Err(refused()));
        let alarms = world.status().alarms;
        let said = "the tunnel cannot be read: the Tunnels API refused: 503, later";
        assert!(alarms.iter().any(|alarm| alarm == said), "{alarms:?}");
        world.pass(pause - 1);
        world.turn(&mut engine);
        assert_eq!(looks(&mut engine), 0);
        world.pass(1);
        world.turn(&mut engine);
    }
    answer(
        &world,
        &mut engine,
        Ok(Answer::Tunnel(tunnel("t.example.com", false))),
    );
    assert_eq!(world.status().alarms, Vec::<String>::new());
}

#[test]
fn nothing_is_asked_of_the_other_side_until_the_tunnel_was_seen_to_be_ours() {
    let mut world = World::remote("    connector: builtin\n");
    let mut engine = world.start();
    world.turn(&mut engine);
    let asks = engine.take_asks();
    assert_eq!(asks.len(), 1, "{asks:?}");
    let ask = asks.into_iter().next().unwrap();
    let other = Ok(Answer::Tunnel(tunnel("u.example.com", false)));
    world.tell(&mut engine, vec![Told { ask, result: other }]);
    for order in [
        switch(false),
        Order::RotateTunnelToken {
            tunnel: "main".to_owned(),
        },
        Order::RotateSharedSecret {
            tunnel: "main".to_owned(),
        },
    ] {
        let refused = world.order(&mut engine, order).unwrap_err();
        assert!(refused.what.contains("u.example.com"), "{refused:?}");
    }
    world.pass(HOUR);
    world.turn(&mut engine);
    answer(
        &world,
        &mut engine,
        Ok(Answer::Tunnel(tunnel("t.example.com", false))),
    );
    world.turn(&mut engine);
    let lanes: Vec<Lane> = engine.take_asks().iter().map(|ask| ask.lane).collect();
    for lane in [Lane::Ca, Lane::Token, Lane::Secret] {
        assert!(lanes.contains(&lane), "{lanes:?}");
    }
}
