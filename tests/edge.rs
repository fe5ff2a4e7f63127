//! The edge between agents and proxies: real programs, real sockets, a tunnel whose credential and access
//! change while traffic flows, and whoever means harm.

mod access;
mod agent;
mod agent_again;
mod agent_files;
mod agent_refusals;
mod agent_stdio;
mod apart;
mod blind;
mod check;
mod clients;
mod credential;
mod database;
mod dialling;
mod documents;
mod evidence;
mod fakes;
mod federation;
mod flood;
mod frames;
mod hanging;
mod harm;
mod heads;
mod hello;
mod hostile;
mod hostile_edge;
mod identity;
mod init;
mod kept_ca;
mod kept_secret;
mod kept_token;
mod keys;
mod network;
mod openapi;
mod path;
#[path = "../edge/src/tests/postgres.rs"]
mod postgres;
mod program;
mod pushed;
mod rotated;
mod sdks;
mod several;
mod signals;
mod slow;
mod stand;
mod state;
mod told;
mod toll;
mod toxics;
mod unread;
mod wellmeant;
mod world;

pub(crate) use agent::{Agent, command, mutual};
pub(crate) use hello::hello;
pub(crate) use stand::{EDGE, OPEN, Stand};
