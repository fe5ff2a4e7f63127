//! Each benchmark: what it shows, against whom, and the bar of each of its figures.

use std::fmt::Write as _;

/// One benchmark.
#[derive(Debug)]
pub(crate) struct Bench {
    /// What it is asked for by.
    pub name: &'static str,
    /// What it shows.
    pub shows: &'static str,
    /// Against whom.
    pub peer: &'static str,
    /// What it measures.
    pub figures: &'static [Wanted],
}

/// A figure that a benchmark must bring.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// `bench.name`.
    pub id: &'static str,
    /// What it is, with its unit.
    pub what: &'static str,
    /// The most that the ratio to the peer may be, or the value itself where there is no peer.
    pub bar: f64,
}

/// All of them.
pub(crate) const BENCHES: [Bench; 13] = [
    Bench {
        name: "swap",
        shows: "10 rotations a second for 100 s under 64 concurrent calls, half on new connections, and 16 open event streams; then 10,000 swaps in all",
        peer: "itself without rotation, in windows of 5 s that alternate 20 times",
        figures: &[
            Wanted {
                id: "swap.failed",
                what: "calls that failed",
                bar: 0.0,
            },
            Wanted {
                id: "swap.broken",
                what: "event streams that broke",
                bar: 0.0,
            },
            Wanted {
                id: "swap.p99",
                what: "p99 of a call in microseconds",
                bar: 1.25,
            },
            Wanted {
                id: "swap.rss",
                what: "MiB that the proxy grew over 10,000 swaps",
                bar: 2.0,
            },
        ],
    },
    Bench {
        name: "proxy",
        shows: "CPU time of a small keep-alive request and of a megabyte: TLS ends, same upstream, one core",
        peer: "the lower of nginx and haproxy; for the megabyte also of both with 64 KiB buffers",
        figures: &[
            Wanted {
                id: "proxy.h1_64",
                what: "CPU microseconds a request, HTTP/1.1, 64 connections",
                bar: 1.10,
            },
            Wanted {
                id: "proxy.h2",
                what: "CPU microseconds a request, HTTP/2, 8 connections of 32 streams",
                bar: 1.10,
            },
            Wanted {
                id: "proxy.h1_1",
                what: "CPU microseconds a request, HTTP/1.1, 1 connection",
                bar: 0.95,
            },
            Wanted {
                id: "proxy.mb",
                what: "CPU milliseconds a megabyte, downloads of 16 MiB",
                bar: 0.6,
            },
        ],
    },
    Bench {
        name: "websocket",
        shows: "CPU time of a small request through the carrier websocket, HTTP/1.1, 64 connections",
        peer: "the carrier tls of the same proxy",
        figures: &[Wanted {
            id: "websocket.ratio",
            what: "CPU microseconds a request",
            bar: 1.35,
        }],
    },
    Bench {
        name: "issue",
        shows: "CPU time of a P-256 server certificate: new key, signed, linted",
        peer: "raw aws-lc-rs: key, signature, verification",
        figures: &[Wanted {
            id: "issue.ratio",
            what: "CPU microseconds a certificate",
            bar: 2.0,
        }],
    },
    Bench {
        name: "footprint",
        shows: "what the proxy takes without doing anything",
        peer: "nobody",
        figures: &[
            Wanted {
                id: "footprint.rss",
                what: "MiB resident when idle",
                bar: 10.0,
            },
            Wanted {
                id: "footprint.packages",
                what: "packages that the proxy links",
                bar: 90.0,
            },
            Wanted {
                id: "footprint.size",
                what: "bytes of the proxy as shipped (profile dist)",
                bar: 7_340_032.0,
            },
        ],
    },
    Bench {
        name: "relay",
        shows: "CPU time of the whole path client, edge, proxy, upstream: a small keep-alive request and a megabyte, on one core",
        peer: "rathole, its hop plain or Noise, in front of nginx; ssh -R and bore in front of the same nginx are reported",
        figures: &[
            Wanted {
                id: "relay.plain_64",
                what: "CPU microseconds a request, 64 connections",
                bar: 0.7,
            },
            Wanted {
                id: "relay.plain_512",
                what: "CPU microseconds a request, 512 connections",
                bar: 0.7,
            },
            Wanted {
                id: "relay.noise_64",
                what: "CPU microseconds a request, 64 connections",
                bar: 0.6,
            },
            Wanted {
                id: "relay.noise_512",
                what: "CPU microseconds a request, 512 connections",
                bar: 0.6,
            },
            Wanted {
                id: "relay.plain_1",
                what: "CPU microseconds a request, 1 connection",
                bar: 0.95,
            },
            Wanted {
                id: "relay.mb",
                what: "CPU milliseconds a megabyte, downloads of 16 MiB",
                bar: 0.75,
            },
            Wanted {
                id: "relay.p50",
                what: "p50 of a call in microseconds, 1 connection",
                bar: 1.0,
            },
        ],
    },
    Bench {
        name: "idle",
        shows: "memory (PSS) of 10,000 idle agents' connections after 64 KiB each way on each, and of 1,000 connected tunnels",
        peer: "nobody",
        figures: &[
            Wanted {
                id: "idle.edge",
                what: "KiB of the edge for a connection",
                bar: 20.0,
            },
            Wanted {
                id: "idle.proxy",
                what: "KiB of the proxy for a connection",
                bar: 30.0,
            },
            Wanted {
                id: "idle.tunnel",
                what: "KiB of the edge for a tunnel with two connections of its proxy",
                bar: 60.0,
            },
        ],
    },
    Bench {
        name: "cut",
        shows: "100 times a secret archived or a token rotated with cut_old_after_seconds 0, two edges on one PostgreSQL",
        peer: "nobody",
        figures: &[Wanted {
            id: "cut.p99",
            what: "seconds from the request to the end of every connection bound to it, p99",
            bar: 1.0,
        }],
    },
    Bench {
        name: "slow",
        shows: "what 64 agents that stop reading, 100,000 that hang up and one at ten times its limit do to everybody else",
        peer: "itself without them, in windows of 3 s that alternate 14 times",
        figures: &[
            Wanted {
                id: "slow.stalled",
                what: "p99 of the others' calls in microseconds",
                bar: 2.0,
            },
            Wanted {
                id: "slow.flood",
                what: "p99 of the others' calls in microseconds",
                bar: 1.2,
            },
            Wanted {
                id: "slow.aborted",
                what: "connections of the proxy that ended",
                bar: 0.0,
            },
        ],
    },
    Bench {
        name: "failover",
        shows: "an edge killed with kill -9 under load and restarted; one of two edges killed under the agent's calls",
        peer: "nobody",
        figures: &[
            Wanted {
                id: "failover.back",
                what: "seconds from the edge's start to the return of every connection of every proxy, the slowest of 7",
                bar: 3.0,
            },
            Wanted {
                id: "failover.failed",
                what: "calls through the agent that began after the kill and failed",
                bar: 0.0,
            },
        ],
    },
    Bench {
        name: "simulate",
        shows: "1,000 tunnels over 1,000 simulated days, by the shipped decisions: lost calls, lag, partitions, crashes, clocks; then each rule taken away",
        peer: "nobody",
        figures: &[
            Wanted {
                id: "simulate.violations",
                what: "runs in which an invariant of the rotation was broken",
                bar: 0.0,
            },
            Wanted {
                id: "simulate.guards",
                what: "rules whose absence nobody notices",
                bar: 0.0,
            },
        ],
    },
    Bench {
        name: "rotate",
        shows: "200 times server certificate, shared secret, tunnel token and CA rotated by the daemon against an edge, under 64 concurrent calls and 16 event streams",
        peer: "nobody",
        figures: &[
            Wanted {
                id: "rotate.failed",
                what: "calls that failed",
                bar: 0.0,
            },
            Wanted {
                id: "rotate.broken",
                what: "event streams that broke",
                bar: 0.0,
            },
        ],
    },
    Bench {
        name: "crash",
        shows: "300 times the daemon killed with kill -9 at random moments while everything rotates against an edge, under the same load",
        peer: "nobody",
        figures: &[
            Wanted {
                id: "crash.failed",
                what: "calls that failed, and streams that broke",
                bar: 0.0,
            },
            Wanted {
                id: "crash.orphans",
                what: "CAs and secrets at the edge, in the end, that are not in use, or in use and not there",
                bar: 0.0,
            },
            Wanted {
                id: "crash.doubles",
                what: "rotations of the token that nobody ordered or knows of, and CAs that were registered twice",
                bar: 0.0,
            },
        ],
    },
];

/// For a person.
pub(crate) fn text() -> String {
    let mut text = String::new();
    for bench in &BENCHES {
        let _ = writeln!(
            text,
            "{}: {}\n  against {}",
            bench.name, bench.shows, bench.peer
        );
        for Wanted { id, what, bar } in bench.figures {
            let _ = writeln!(
                text,
                "  {id:20} {what}: at most {bar}{}",
                if bench.ratio(id) { " times" } else { "" }
            );
        }
    }
    text
}

impl Bench {
    /// The benchmark of that name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        BENCHES.iter().find(|bench| bench.name == name)
    }

    /// Whether the bar of a figure is a ratio.
    fn ratio(&self, id: &str) -> bool {
        match self.name {
            "footprint" | "idle" | "cut" | "failover" | "simulate" | "rotate" | "crash" => false,
            "swap" => id == "swap.p99",
            "slow" => id != "slow.aborted",
            _ => true,
        }
    }
}
