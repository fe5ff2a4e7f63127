//! Attacks on the verifier, one a line, and tokens as real issuers shape them.

mod attack;
mod fetching;
mod servers;
mod shapes;
