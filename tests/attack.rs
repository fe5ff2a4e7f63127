//! What somebody may send who means harm: refused within a limit, logged once, and a caller who means
//! well never notices.

mod carriers;
mod control;
mod crowd;
mod http;
