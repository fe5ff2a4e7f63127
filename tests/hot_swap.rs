//! A credential is swapped while traffic flows: what ends on which leaf, what goes on, what is told to
//! end, and what happens when nobody is there to swap.

mod ack;
mod denied;
mod drain;
mod ends;
mod followed;
mod leak;
mod metrics;
mod nack;
mod sources;
mod streams;
