//! What stands in the body of an order, key by key, so that whoever gets one wrong is told which, and
//! what it takes.

use serde_json::{Map, Value};

use super::answer::{Denial, unusable};
use super::{ClientOrder, RotationOrder};

/// A JSON object of known keys.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl RotationOrder {
    pub(super) fn read(body: &[u8]) -> Result<Self, Denial> {
        let mut fields = Fields::parse(
            body,
            &["what", "tunnel", "trusted", "standby", "accept_unproven"],
        )?;
        Ok(Self {
            what: fields.required("what")?,
            tunnel: fields.text("tunnel")?,
            trusted: fields.flag("trusted")?,
            standby: fields.text("standby")?,
            accept_unproven: fields.flag("accept_unproven")?,
        })
    }
}

impl ClientOrder {
    pub(super) fn read(body: &[u8]) -> Result<Self, Denial> {
        let mut fields = Fields::parse(body, &["tunnel", "name", "csr", "lifetime_seconds"])?;
        Ok(Self {
            tunnel: fields.text("tunnel")?,
            name: fields.required("name")?,
            csr: fields.required("csr")?,
            lifetime_seconds: fields.seconds("lifetime_seconds")?,
        })
    }
}

impl Fields {
    fn parse(body: &[u8], known: &[&str]) -> Result<Self, Denial> {
        let value = serde_json::from_slice(body).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            wrong(format!(
                "the body is no JSON from line {line}, column {column} on"
            ))
        })?;
        let Value::Object(fields) = value else {
            return Err(wrong("the body is no JSON object".to_owned()));
        };
        match fields.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(unusable(
                format!("unknown key {key:?}"),
                format!("known keys here: {}", known.join(", ")),
            )),
            None => Ok(Self(fields)),
        }
    }

    fn required(&mut self, key: &str) -> Result<String, Denial> {
        self.text(key)?
            .ok_or_else(|| wrong(format!("{key} is missing")))
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, Denial> {
        match self.0.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(format!("{key} takes a text"))),
        }
    }

    fn flag(&mut self, key: &str) -> Result<bool, Denial> {
        match self.0.remove(key) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(wrong(format!("{key} takes true or false"))),
        }
    }

    fn seconds(&mut self, key: &str) -> Result<u64, Denial> {
        let value = self.0.remove(key);
        let value = value.ok_or_else(|| wrong(format!("{key} is missing")))?;
        let seconds = value.as_u64().filter(|seconds| *seconds > 0);
        seconds.ok_or_else(|| wrong(format!("{key} takes a whole number from 1 on")))
    }
}

fn wrong(what: String) -> Denial {
    unusable(what, "see docs/cli.md for what each path takes".to_owned())
}
