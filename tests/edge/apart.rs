//! Edge, proxy and agent each in a network of its own, with packets lost and late, cables cut, one direction dead, and
//! firewalls that let through what the programs say they need. What toxiproxy cannot do (`toxics.rs`): it ends TCP itself.

mod world;

use std::time::Duration;

use tokio::process::Command;
use tokio::time::Instant;

use super::network::Network;
use crate::rig::{LIMIT, until, until_for};
use world::{Inside, PROXY_HEALTH, World, agent_command, edge_command, proxy_command};

/// From the last that was heard to the end, with time for a busy machine.
const NOTICED: Duration = wire::PING_EVERY
    .saturating_add(wire::PING_TIMEOUT)
    .saturating_add(Duration::from_secs(10));

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_are_lost_cost_no_call_and_no_connection() {
    let world = World::start().await;
    let network = &world.network;
    let places = [
        (&network.edge, &["proxy", "agent"][..]),
        (&network.proxy, &["edge"][..]),
        (&network.agent, &["edge"][..]),
    ];
    let losses = places.map(|(place, devices)| (place, place.lose(devices)));
    let before = world.calls();
    for number in 0..30 {
        assert!(world.call().await, "{number}");
    }
    for number in 0..5 {
        assert!(world.call_anew().await, "{number}");
    }
    assert_eq!(world.calls(), before + 35, "each once");
    let lost: u64 = losses.iter().map(|(place, loss)| place.lost(*loss)).sum();
    assert!(lost > 10, "{lost} packets were lost");
    let log = world.edge.log();
    assert!(!log.contains("proxy disconnected"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_that_is_cut_is_noticed_at_both_ends_and_calls_go_on_once_it_is_mended() {
    let world = World::start().await;
    let far = &world.network.proxy;
    let begun = Instant::now();
    for chain in ["INPUT", "OUTPUT"] {
        far.drop_all(chain);
    }
    // Nobody was told: only a ping that is not answered says it.
    world.links(NOTICED, 0).await;
    let ended = "connection to the edge ended";
    world.proxy.logs(NOTICED, ended, 2).await;
    assert!(begun.elapsed() < NOTICED, "{:?}", begun.elapsed());
    assert_eq!(world.edge.count("the proxy answers no ping"), 2);
    let page = world.proxy.page("/readyz").await;
    assert!(page.starts_with("not ready"), "{page}");
    let before = world.calls();
    assert!(!world.call().await && !world.call_anew().await);
    far.heal();
    world.works_again().await;
    assert_eq!(world.calls(), before + 2, "what was refused was not made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direction_that_is_dead_is_noticed_at_both_ends_and_so_is_a_proxy_that_dies_unheard() {
    let mut world = World::start().await;
    let ended = "connection to the edge ended";
    for (number, chain) in ["INPUT", "OUTPUT"].into_iter().enumerate() {
        world.network.proxy.drop_all(chain);
        let begun = Instant::now();
        world.links(NOTICED, 0).await;
        world.proxy.logs(NOTICED, ended, 2 * number + 2).await;
        assert!(begun.elapsed() < NOTICED, "{chain}: {:?}", begun.elapsed());
        world.network.proxy.heal();
        world.works_again().await;
    }
    let silent = "the proxy answers no ping";
    let before = world.edge.count(silent);
    world.network.proxy.drop_all("OUTPUT");
    // What the system would say for it is lost as well.
    world.proxy.end().await;
    world.links(NOTICED, 0).await;
    assert_eq!(world.edge.count(silent), before + 2);
    assert!(!world.call().await);
    world.network.proxy.heal();
    let command = proxy_command(&world.network, world.folder.path(), &[]);
    let log = world.folder.path().join("proxy-2.log");
    world.proxy = Inside::start(&world.network.proxy, command, PROXY_HEALTH, log);
    world.works_again().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_vanish_are_noticed_and_the_tunnel_is_not_touched() {
    let world = World::start().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut curl = world.network.agent.command("curl");
        curl.args(["-sSN", "http://127.0.0.1:7777/up/events"]);
        curl.stdout(std::process::Stdio::null());
        held.push(curl.stderr(std::process::Stdio::null()).spawn().unwrap());
    }
    until("their event streams", async || {
        (world.upstream.count("\"GET /events HTTP/1.1\" 200") == 3).then_some(())
    })
    .await;
    for chain in ["INPUT", "OUTPUT"] {
        world.network.agent.drop_all(chain);
    }
    // What is not acknowledged is given up after 45 seconds.
    until_for(2 * LIMIT, "the edge's notice", async || {
        (world.edge.metric("keyward_edge_streams").await == Some(0)).then_some(())
    })
    .await;
    until("the proxy's notice", async || {
        (world.proxy.metric("keyward_connections").await == Some(0)).then_some(())
    })
    .await;
    assert!(!world.edge.log().contains("proxy disconnected"));
    world.network.agent.heal();
    assert!(world.call_anew().await);
    until("a call by the agent", async || {
        world.call().await.then_some(())
    })
    .await;
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn firewalls_that_let_through_what_each_program_says_and_no_more_are_enough() {
    let mut world = World::start().await;
    let Network { edge, proxy, agent } = &world.network;
    let folder = world.folder.path();
    let told = async |mut command: Command| {
        let output = command.output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        String::from_utf8(output.stdout).unwrap()
    };
    let of_edge = told(edge_command(
        &world.network,
        folder,
        &["check", "--firewall"],
    ))
    .await;
    let words = ["--check", "--firewall"];
    let of_proxy = told(proxy_command(&world.network, folder, &words)).await;
    let of_agent = told(agent_command(&world.network, folder, &["--firewall"])).await;
    for place in [edge, proxy, agent] {
        place.close();
    }
    world.proxy.end().await;
    world.links(LIMIT, 0).await;
    let command = proxy_command(&world.network, folder, &[]);
    let log = folder.join("closed.log");
    world.proxy = Inside::start(proxy, command, PROXY_HEALTH, log);
    until("the proxy's page", async || {
        let page = world.proxy.page("/readyz").await;
        page.starts_with("not ready").then_some(())
    })
    .await;
    assert!(!world.call_anew().await, "nothing is open");

    edge.open(&of_edge);
    proxy.open(&of_proxy);
    assert!(
        !of_proxy
            .lines()
            .any(|line| line.starts_with("in\t") && !line.ends_with("this machine alone"))
    );
    world.links(LIMIT, 2).await;
    assert!(!world.call_anew().await, "the agent's is closed");
    agent.open(&of_agent);
    world.works_again().await;
}
