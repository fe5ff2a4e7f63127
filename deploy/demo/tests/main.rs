//! The demo's own parts against a plain end of inner TLS: what they do, and that they notice when
//! something goes wrong. The real programs come in with `keyward-tests`.

#[cfg(test)]
mod path;
